"""Apply the CPU optimizations to a finished model."""

from __future__ import annotations

from typing import Any

from torch import nn

from segkit.cpu.blocks import FastImagePooling, FastSplitAttention
from segkit.cpu.conv3x3 import FastConv3x3, is_replaceable, is_slow_in_bf16
from segkit.cpu.recompute import recompute_context
from segkit.models.layers.aspp import ImagePooling
from segkit.models.layers.split_attention import SplitAttention


class _WithRecompute(nn.Module):
    """Base class put before the class of a model."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; in training under ``recompute_context``."""
        if not self.training:
            return super().forward(*args, **kwargs)
        with recompute_context(self):
            return super().forward(*args, **kwargs)


def optimize_for_cpu(model: nn.Module) -> None:
    """Let a model train faster and in less memory on a CPU, in place; results differ in rounding only.

    Parameters and their names stay. See ``segkit.cpu`` for what is done and what it gains.
    """
    for module in model.modules():
        if is_replaceable(module):
            module.__class__ = FastConv3x3
        elif type(module) is SplitAttention:
            module.__class__ = FastSplitAttention
        elif type(module) is ImagePooling:
            module.__class__ = FastImagePooling
    if not isinstance(model, _WithRecompute):
        base = type(model)
        model.__class__ = type(base.__name__, (_WithRecompute, base), {})


def replace_slow_modules(model: nn.Module, *, bf16: bool) -> None:
    """Replace modules of a channels-last model in evaluation mode by faster versions, in place."""
    for module in model.modules():
        if type(module) is ImagePooling:
            module.__class__ = FastImagePooling
        elif bf16 and is_replaceable(module) and is_slow_in_bf16(module.in_channels, module.dilation[0]):
            module.__class__ = FastConv3x3
