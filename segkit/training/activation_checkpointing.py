"""Activation checkpointing: keep only the inputs of blocks, which the backward pass runs again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from segkit.cpu.recompute import no_recompute
from segkit.models.network import Segmenter


def select_stages(model: Segmenter) -> list[str]:
    """Return the stages of the backbone that can be run again."""
    parts = model.backbone.named_children()
    return [name for name, part in parts if name.startswith("layer") and isinstance(part, nn.Sequential)]


def checkpoint_stages(model: Segmenter, stages: Sequence[str]) -> None:
    """Let the backward pass run the blocks of some stages again, to the bit; only their inputs are kept.

    Args:
        model: changed in place; its parameters and their names stay.
        stages: of the backbone, such as ``["layer3"]``.

    Raises:
        ValueError: the backbone has no stage of that name.
    """
    for stage in stages:
        blocks = getattr(model.backbone, stage, None)
        if not isinstance(blocks, nn.Sequential):
            raise ValueError(
                f"runtime.activation_checkpointing={list(stages)}: this backbone has no stage {stage!r}; it"
                f" has {', '.join(select_stages(model)) or 'none that can be checkpointed'}"
            )
        for block in blocks:  # a class, as a copy of the model must run its own blocks
            kind = type(block)
            block.__class__ = type(kind.__name__, (_RunAgain, kind), {})


class _RunAgain(nn.Module):
    """Stands before the class of a block."""

    def forward(self, *inputs: Any) -> Any:
        if not self.training:
            return super().forward(*inputs)
        from torch.utils.checkpoint import checkpoint  # a second of import that few need

        def contexts() -> tuple[Any, Any]:
            return contextlib.nullcontext(), _unchanged(self)

        with no_recompute():
            return checkpoint(super().forward, *inputs, use_reentrant=False, context_fn=contexts)


@contextlib.contextmanager
def _unchanged(block: nn.Module) -> Iterator[None]:
    """Restore the buffers at the end: batch statistics were gathered the first time."""
    before = [buffer.clone() for buffer in block.buffers()]
    try:
        yield  # left by an exception, when there is all that the backward pass wants
    finally:
        for buffer, value in zip(block.buffers(), before, strict=True):
            buffer.copy_(value)
