"""Batch norms disappear into the convolutions before them, and ReLUs into the pass that writes the result.

In evaluation a batch norm that reads a convolution's result, alone, is a change of that convolution's
weights. Which one does is read from the traced forward pass.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn.utils.fusion import fuse_conv_bn_eval

IDLE = (nn.Identity, nn.Dropout, nn.Dropout2d)  # do nothing in evaluation
NORM = (nn.BatchNorm2d, nn.SyncBatchNorm)


class OneDNNConvolution(nn.Module):
    """A float32 convolution on a CPU that can rectify what it writes, without another pass over it."""

    def __init__(self, conv: nn.Conv2d, after: str) -> None:
        super().__init__()
        self.conv, self.after = conv, after

    def forward(self, x: Tensor) -> Tensor:
        """As convolution and activation."""
        c = self.conv
        how = c.padding, c.stride, c.dilation, c.groups, self.after, [], ""
        return torch.ops.mkldnn._convolution_pointwise(x, c.weight, c.bias, *how)


def has_onednn_convolution() -> bool:
    """Whether this PyTorch has the (undocumented) operation behind ``OneDNNConvolution``."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


class _Known(fx.Proxy):
    """A value of the trace that knows how many items it has: of a shape, or of chunks."""

    def __len__(self) -> int:
        assert isinstance(self.tracer, _Tracer)
        return len(self.tracer.values[self.node])


class _Tracer(fx.Tracer):
    """Takes each module without parts as one step, and runs an example along to answer ``len``."""

    def __init__(self, example: Any) -> None:
        super().__init__()
        self.example, self.values, self.running = example, {}, False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(True for _ in m.children())

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Known(node, self)

    def iter(self, obj: Any) -> Iterator[Any]:
        return iter([obj[i] for i in range(len(obj))])

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self.running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        return attr_val if self.running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_node(self, kind: str, target: Any, *given: Any, **named: Any) -> fx.Node:
        node = super().create_node(kind, target, *given, **named)
        self.running = True
        self.values[node] = self.run(node)
        self.running = False
        return node

    def run(self, node: fx.Node) -> Any:
        """The value of one step for the example."""
        target: Any = node.target
        args, named = map_arg((node.args, node.kwargs), lambda before: self.values[before])
        if node.op in ("placeholder", "output"):
            return self.example
        if node.op == "get_attr":
            return operator.attrgetter(target)(self.root)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **named)
        return (self.root.get_submodule(target) if node.op == "call_module" else target)(*args, **named)


def fold_batch_norms(module: nn.Module, example: Any, *, onednn: bool) -> nn.Module:
    """The module, in evaluation mode, with batch norms folded; its parts are reused and changed.

    Args:
        module: of one argument, of float32 or float64.
        example: an argument for it.
        onednn: let convolutions rectify; only for float32 on a CPU.
    """
    tracer = _Tracer(example)
    try:
        graph = tracer.trace(module)
    except Exception as error:  # whatever a forward does that a trace cannot hold
        name = type(module).__name__
        logging.getLogger("segkit").debug("%s cannot be traced and runs as it is: %s", name, error)
        return module
    traced = fx.GraphModule(tracer.root, graph)
    for node in list(graph.nodes):
        _simplify(traced, node, onednn=onednn)
    for node in graph.nodes if onednn else ():
        conv = _part(traced, node)
        if isinstance(conv, nn.Conv2d) and _plain(conv):
            traced.set_submodule(node.target, OneDNNConvolution(conv, "none"))
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _part(traced: fx.GraphModule, node: Any) -> nn.Module | None:
    return traced.get_submodule(node.target) if node.op == "call_module" else None


def _simplify(traced: fx.GraphModule, node: fx.Node, *, onednn: bool) -> None:
    """Take a step out of the graph if the convolution before it can do its work."""
    step = _part(traced, node)
    if not isinstance(step, (*IDLE, *NORM, nn.ReLU)):
        return
    before: Any = node.args[0]
    conv = _part(traced, before)
    if not isinstance(step, IDLE):
        alone = [user.target for user in traced.graph.nodes].count(before.target) == 1 and len(
            before.users
        ) == 1
        if not (isinstance(conv, nn.Conv2d) and alone):
            return
        if isinstance(step, nn.ReLU):
            if not (onednn and _plain(conv)):
                return
            traced.set_submodule(before.target, OneDNNConvolution(conv, "relu"))
        else:
            assert isinstance(step, nn.BatchNorm2d | nn.SyncBatchNorm)
            traced.set_submodule(before.target, fuse_conv_bn_eval(conv, step))
    node.replace_all_uses_with(before)
    traced.graph.erase_node(node)


def _plain(conv: nn.Conv2d) -> bool:
    own = type(conv).forward is not nn.Conv2d.forward  # it pads, or treats its weights, in a way of its own
    return not own and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
