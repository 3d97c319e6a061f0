"""Inference with oneDNN: a convolution adds the shortcut and applies the ReLU while it writes its result.

Done one after the other, each of them reads and writes the whole map once more.
"""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

SUMS = (operator.add, torch.add)


class OneDNNConvolution(nn.Module):
    """A convolution in float32 or bf16 that may add a tensor and apply a ReLU in the same pass."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.activation = "none"
        self.can_overwrite = False  # whether nothing else reads the tensor that is added

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Return the activation of the convolution of x plus ``added``, which has the shape of the result."""
        conv = self.conv
        weights = conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups
        if added is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *weights, self.activation, [], "")
        activation = self.activation if self.activation != "none" else None
        settings = *weights, "add", 1.0, activation, [], ""
        if self.can_overwrite:
            return torch.ops.mkldnn._convolution_pointwise_.binary(added, x, *settings)
        return torch.ops.mkldnn._convolution_pointwise.binary(x, added, *settings)


def has_onednn_convolution() -> bool:
    """Return whether this PyTorch has the (undocumented) operators of ``OneDNNConvolution``."""
    names = "_convolution_pointwise", "_convolution_pointwise_"
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def fuse_operations(traced: nn.Module) -> None:
    """Replace convolutions, the sums and ReLUs after them, and global means, in place.

    Args:
        traced: result of ``fold_batch_norms`` for a CPU model in float32, which may become bf16 later. Other
            modules stay as they are.
    """
    if not isinstance(traced, fx.GraphModule):
        return
    for node in list(traced.graph.nodes):
        module = find_module(traced, node)
        if isinstance(module, nn.Conv2d) and _is_ordinary(module):
            traced.set_submodule(node.target, OneDNNConvolution(module))
        elif node.target in SUMS and not node.kwargs:
            _fuse_sum(traced, node)
        elif isinstance(module, nn.ReLU):
            _fuse_relu(traced, node)
        elif node.target == "mean" and node.args[1:] == ((2, 3),) and node.kwargs.keys() <= {"keepdim"}:
            node.op, node.target = "call_function", _mean_of_map
    traced.recompile()


def find_module(traced: fx.GraphModule, node: Any) -> nn.Module | None:
    """Return the module that a node calls, None for other nodes."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        return traced.get_submodule(str(node.target))
    return None


def is_used_once(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a module is called once and its output read once."""
    calls = [other for other in traced.graph.nodes if other.target == node.target]
    return len(calls) == 1 and len(node.users) == 1


def _fuse_relu(traced: fx.GraphModule, node: fx.Node) -> None:
    source: Any = node.args[0]
    conv = find_module(traced, source)
    if isinstance(conv, OneDNNConvolution) and is_used_once(traced, source):
        conv.activation = "relu"
        node.replace_all_uses_with(source)
        traced.graph.erase_node(node)


def _fuse_sum(traced: fx.GraphModule, node: fx.Node) -> None:
    """Let one of the two convolutions of a sum, or the only one, add the other tensor."""
    first, second = cast("tuple[fx.Node, fx.Node]", node.args)
    for source, added in ((first, second), (second, first)):
        conv = find_module(traced, source)
        if not isinstance(conv, OneDNNConvolution) or not isinstance(added, fx.Node):
            continue
        is_plain = conv.activation == "none" and len(source.args) == 1
        if is_plain and is_used_once(traced, source) and source.meta["shape"] == added.meta["shape"]:
            is_own_input = added is source.args[0]
            conv.can_overwrite = not is_own_input and _is_read_last(traced, added, node)
            source.args = (*source.args, added)
            node.prepend(source)  # after ``added`` is computed
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)
            return


def _is_read_last(traced: fx.GraphModule, value: fx.Node, reader: fx.Node) -> bool:
    """Return whether the result of a convolution is read by convolutions only before ``reader`` reads it."""
    readers = [other for other in value.users if other is not reader]
    makers = [find_module(traced, other) for other in (value, *readers)]  # none of which returns a view
    order = {other: index for index, other in enumerate(traced.graph.nodes)}
    is_last = all(order[other] < order[reader] for other in readers)
    return is_last and all(isinstance(maker, OneDNNConvolution | nn.Conv2d) for maker in makers)


def _mean_of_map(x: Tensor, dims: tuple[int, int], *, keepdim: bool = False) -> Tensor:
    """Return ``x.mean((2, 3))``, which PyTorch computes from a float32 copy if x is bf16."""
    if x.dtype != torch.bfloat16 or x.ndim != 4:
        return x.mean(dims, keepdim=keepdim)
    cells = x.permute(0, 2, 3, 1).flatten(1, 2)
    means = (cells.new_ones(1, cells.shape[1]) @ cells / cells.shape[1]).squeeze(1)
    if keepdim:
        return means[:, :, None, None]
    return means


def _is_ordinary(conv: nn.Conv2d) -> bool:
    """Return whether a convolution has the forward pass of ``nn.Conv2d`` and numeric zero padding."""
    kind = type(conv)
    has_own_forward = (kind.forward, kind._conv_forward) != (nn.Conv2d.forward, nn.Conv2d._conv_forward)
    return not has_own_forward and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
