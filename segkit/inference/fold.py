"""Folding of batch norms into the convolutions before them, and of ReLUs into oneDNN convolutions.

In evaluation mode, a batch norm that is the only reader of a convolution's output equals a change of that
convolution's weights. Which batch norm follows which convolution is read from the forward pass, traced with
``torch.fx``.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

INACTIVE = (nn.Identity, nn.Dropout, nn.Dropout2d)  # without effect in evaluation mode
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


class OneDNNConvolution(nn.Module):
    """A CPU convolution in float32 or bf16 with an activation in the same pass: ``none`` or ``relu``."""

    def __init__(self, conv: nn.Conv2d, activation: str) -> None:
        super().__init__()
        self.conv, self.activation = conv, activation

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of the convolution of x."""
        conv = self.conv
        settings = conv.padding, conv.stride, conv.dilation, conv.groups, self.activation, [], ""
        return torch.ops.mkldnn._convolution_pointwise(x, conv.weight, conv.bias, *settings)


def has_onednn_convolution() -> bool:
    """Return whether this PyTorch has the (undocumented) operator of ``OneDNNConvolution``."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


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
        return node


def fold_batch_norms(module: nn.Module, example: Any, *, onednn: bool) -> nn.Module:
    """Fold the batch norms of a module in evaluation mode; its submodules are reused and changed.

    Args:
        module: takes one argument; float32 or float64.
        example: an argument for it.
        onednn: use ``OneDNNConvolution``; only on a CPU, for float32 that may become bf16 later.

    Returns:
        The traced module, or ``module`` itself if it cannot be traced.
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
        _fold_node(traced, node, onednn=onednn)
    if onednn:
        for node in graph.nodes:
            conv = _find_module(traced, node)
            if isinstance(conv, nn.Conv2d) and _is_ordinary(conv):
                traced.set_submodule(node.target, OneDNNConvolution(conv, "none"))
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _fold_node(traced: fx.GraphModule, node: fx.Node, *, onednn: bool) -> None:
    """Remove a node if it has no effect, or if the convolution before it can take over its work."""
    module = _find_module(traced, node)
    if not isinstance(module, (*INACTIVE, *NORMS, nn.ReLU)):
        return
    source: Any = node.args[0]
    if not isinstance(module, INACTIVE):
        conv = _find_module(traced, source)
        if not isinstance(conv, nn.Conv2d) or not _is_used_once(traced, source):
            return
        if isinstance(module, NORMS):
            traced.set_submodule(source.target, fuse_conv_bn_eval(conv, module))
        elif onednn and _is_ordinary(conv):
            traced.set_submodule(source.target, OneDNNConvolution(conv, "relu"))
        else:
            return
    node.replace_all_uses_with(source)
    traced.graph.erase_node(node)


def _find_module(traced: fx.GraphModule, node: Any) -> nn.Module | None:
    """Return the module that a node calls, None for other nodes."""
    if node.op == "call_module":
        return traced.get_submodule(node.target)
    return None


def _is_used_once(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a module is called once and its output read once."""
    calls = [other for other in traced.graph.nodes if other.target == node.target]
    return len(calls) == 1 and len(node.users) == 1


def _is_ordinary(conv: nn.Conv2d) -> bool:
    """Return whether a convolution has the forward pass of ``nn.Conv2d`` and numeric zero padding."""
    kind = type(conv)
    has_own_forward = (kind.forward, kind._conv_forward) != (nn.Conv2d.forward, nn.Conv2d._conv_forward)
    return not has_own_forward and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
