"""Folding of batch norms into the convolutions before them.

In evaluation mode, a batch norm that is the only reader of a convolution's output equals a change of that
convolution's weights. Which batch norm follows which convolution is read from the forward pass, traced with
``torch.fx``.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segkit.cpu.onednn import find_module, is_used_once

INACTIVE = (nn.Identity, nn.Dropout, nn.Dropout2d)  # without effect in evaluation mode
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


class _SizedProxy(fx.Proxy):
    """A traced value with a length, so that shapes and chunks can be unpacked."""

    def __len__(self) -> int:
        assert isinstance(self.tracer, _Tracer)
        return len(self.tracer.values[self.node])


class _Tracer(fx.Tracer):
    """Records a forward pass and runs an example along, for the lengths of values.

    Modules without children are recorded as one node each.
    """

    def __init__(self, example: Any) -> None:
        super().__init__()
        self.example = example
        self.values: dict[fx.Node, Any] = {}
        self.is_running_example = False

    @functools.cached_property
    def interpreter(self) -> fx.Interpreter:
        interpreter = fx.Interpreter(self.root, garbage_collect_values=False, graph=self.graph)
        interpreter.env = self.values
        return interpreter

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not list(m.children())

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _SizedProxy(node, self)

    def iter(self, obj: Any) -> Iterator[Any]:
        return iter([obj[i] for i in range(len(obj))])

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if self.is_running_example:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        if self.is_running_example:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(kind, target, *args, **kwargs)
        self.is_running_example = True
        if kind == "placeholder":
            self.values[node] = self.example
        else:
            self.values[node] = self.interpreter.run_node(node)
        self.is_running_example = False
        node.meta["shape"] = getattr(self.values[node], "shape", None)
        return node


def fold_batch_norms(module: nn.Module, example: Any) -> nn.Module:
    """Fold the batch norms of a module in evaluation mode; its submodules are reused and changed.

    Args:
        module: takes one argument; float32 or float64.
        example: an argument for it.

    Returns:
        The traced module, or ``module`` itself if it cannot be traced. ``meta["shape"]`` of its nodes is the
        shape of their value for the example.
    """
    tracer = _Tracer(example)
    try:
        graph = tracer.trace(module)
    except Exception as error:  # a forward pass can raise anything during tracing
        name = type(module).__name__
        logging.getLogger("segkit").debug("%s cannot be traced, its batch norms stay: %s", name, error)
        return module
    traced = fx.GraphModule(tracer.root, graph)
    for node in list(graph.nodes):
        _fold_node(traced, node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _fold_node(traced: fx.GraphModule, node: fx.Node) -> None:
    """Remove a node if it has no effect, or if the convolution before it can take over its work."""
    module = find_module(traced, node)
    if not isinstance(module, (*INACTIVE, *NORMS)):
        return
    source: Any = node.args[0]
    if isinstance(module, NORMS):
        conv = find_module(traced, source)
        if not isinstance(conv, nn.Conv2d) or not is_used_once(traced, source):
            return
        traced.set_submodule(source.target, fuse_conv_bn_eval(conv, module))
    node.replace_all_uses_with(source)
    traced.graph.erase_node(node)
