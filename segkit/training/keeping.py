"""What a step keeps between its forward and its backward pass: results that are dear, or less than that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from segkit.models.layers.recompute import recomputing, set_aside
from segkit.models.network import Segmenter
from segkit.system.runtime import Runtime


def forward_pass(runtime: Runtime) -> contextlib.AbstractContextManager[None]:
    """The context of a forward pass; a compiler decides by itself what it computes again."""
    return recomputing() if runtime.recompute and not runtime.compile else contextlib.nullcontext()


def stages_of(model: Segmenter) -> list[str]:
    """Stages of the backbone that can be run again."""
    parts = model.backbone.named_children()
    return [name for name, part in parts if name.startswith("layer") and isinstance(part, nn.Sequential)]


def checkpoint_stages(model: Segmenter, stages: Sequence[str]) -> None:
    """Keep of some stages only what enters their blocks; the backward pass runs the blocks again, to the bit.

    Args:
        model: its blocks are told in place; names and numbers of its parameters stay.
        stages: of the backbone, such as ``["layer3"]``.

    Raises:
        ValueError: the backbone has no stage of that name.
    """
    for stage in stages:
        blocks = getattr(model.backbone, stage, None)
        if not isinstance(blocks, nn.Sequential):
            raise ValueError(
                f"runtime.checkpoint={list(stages)}: this backbone has no stage {stage!r}; it has"
                f" {', '.join(stages_of(model)) or 'none that can be run again'}"
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

        with set_aside():
            return checkpoint(super().forward, *inputs, use_reentrant=False, context_fn=contexts)


@contextlib.contextmanager
def _unchanged(block: nn.Module) -> Iterator[None]:
    """Batch statistics were gathered the first time."""
    before = [buffer.clone() for buffer in block.buffers()]
    try:
        yield  # left by an exception, when there is all that the backward pass wants
    finally:
        for buffer, value in zip(block.buffers(), before, strict=True):
            buffer.copy_(value)
