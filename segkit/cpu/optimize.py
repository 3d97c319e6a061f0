"""Apply the CPU optimizations to a finished model."""

from __future__ import annotations

from typing import Any

from torch import nn

from segkit.cpu.dilated import DilatedConv2d, applies
from segkit.cpu.image_pooling import FastImagePooling
from segkit.cpu.recompute import recompute_context
from segkit.cpu.split_attention import FastSplitAttention
from segkit.models.layers.aspp import ImagePooling
from segkit.models.layers.split_attention import SplitAttention


class _Recomputing(nn.Module):
    """Stands before the class of a model."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; in training under ``recompute_context``."""
        if not self.training:
            return super().forward(*args, **kwargs)
        with recompute_context(self):
            return super().forward(*args, **kwargs)


def optimize_for_cpu(model: nn.Module) -> None:
    """Let a model train faster and in less memory on a CPU, in place; results differ in rounding only.

    Parameters and their names stay. What is done, and what each part gains, is listed in ``segkit.cpu``.

    Args:
        model: of any kind; the last two stages of its ``backbone``, if it has one, are kept.
    """
    for module in model.modules():
        if applies(module):
            module.__class__ = DilatedConv2d
        elif type(module) is SplitAttention:
            module.__class__ = FastSplitAttention
        elif type(module) is ImagePooling:
            module.__class__ = FastImagePooling
    if not isinstance(model, _Recomputing):
        kind = type(model)
        model.__class__ = type(kind.__name__, (_Recomputing, kind), {})
