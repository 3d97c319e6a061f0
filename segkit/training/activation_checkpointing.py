"""Activation checkpointing: store only the inputs of blocks, which the backward pass runs again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from segkit.cpu.recompute import no_recompute
from segkit.models.network import Segmenter


def recompute_stages(model: Segmenter, stages: Sequence[str]) -> None:
    """Turn on activation checkpointing for the named backbone stages; results stay bit-equal.

    Raises:
        ValueError: the backbone has no stage of that name.
    """
    for stage in stages:
        blocks = getattr(model.backbone, stage, None)
        if not isinstance(blocks, nn.Sequential):
            names = [name for name, _ in model.backbone.named_children() if name.startswith("layer")]
            raise ValueError(
                f"runtime.activation_checkpointing={list(stages)}: this backbone has no stage {stage!r}; it"
                f" has {', '.join(names) or 'none that can be checkpointed'}."
            )
        for block in blocks:
            # the class changes, not the method of the instance: a copy of the model runs its own blocks
            kind = type(block)
            block.__class__ = type(kind.__name__, (_CheckpointedBlock, kind), {})


class _CheckpointedBlock(nn.Module):
    """Base class that precedes the class of a block."""

    def forward(self, *inputs: Any) -> Any:
        if not self.training:
            return super().forward(*inputs)
        from torch.utils.checkpoint import checkpoint  # takes a second to import

        def make_contexts() -> tuple[Any, Any]:
            return contextlib.nullcontext(), _repeat(self, again)

        with no_recompute() as again:
            return checkpoint(super().forward, *inputs, use_reentrant=False, context_fn=make_contexts)


@contextlib.contextmanager
def _repeat(block: nn.Module, again: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    """Undo changes of buffers in the second pass: the first has already updated the batch statistics."""
    before = [buffer.clone() for buffer in block.buffers()]
    try:
        with again:
            yield  # checkpoint leaves by an exception once it has all that the backward pass needs
    finally:
        for buffer, value in zip(block.buffers(), before, strict=True):
            buffer.copy_(value)
