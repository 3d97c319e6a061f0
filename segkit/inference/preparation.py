"""A copy of a model made for inference: batch norms folded, channels last, float32 or bf16."""

from __future__ import annotations

import copy
import functools
import logging
from typing import TYPE_CHECKING, Literal

import torch

from segkit.inference.fold import fold_batch_norms, has_onednn_convolution
from segkit.inference.protocol import pick_precision
from segkit.runtime.precision import supports_bf16

if TYPE_CHECKING:
    from segkit.models.network import Segmenter

TOLERANCE = 1e-3  # of the largest logit; folding in float32 moves them by about a millionth
TRIALS = ((1, 65, 97), (2, 72, 64))  # of batch and sides, because a trace might have frozen one


def prepare(model: Segmenter, *, precision: Literal["auto", "float32", "bf16"] = "float32") -> Segmenter:
    """A copy in evaluation mode, without auxiliary head, that gives the same logits sooner, up to rounding.

    Args:
        model: it is left alone.
        precision: of weights and activations; the constants of normalization keep theirs. ``auto`` is bf16
            where the model's device has units for it.
    """
    device = next(model.parameters()).device
    precision = pick_precision(precision, device)
    if (
        with_precision := getattr(model, "with_precision", None)
    ) is not None:  # an exported file, prepared for its own runtime
        return with_precision(precision)
    if precision == "bf16" and not supports_bf16(device):
        _warn_slow_bf16(device.type)
    fast = copy.deepcopy(model).eval()
    fast.auxiliary = None
    if hasattr(fast, "backbone"):
        weight = next(fast.parameters())
        exactly_float32 = precision == "float32" and weight.dtype == torch.float32
        fast = _folded(
            fast, onednn=exactly_float32 and weight.device.type == "cpu" and has_onednn_convolution()
        )
    if precision == "bf16":
        mean, std = fast.mean, fast.std
        fast.to(torch.bfloat16)
        fast.mean, fast.std = mean, std
    return fast.to(memory_format=torch.channels_last)


def make_portable(model: Segmenter) -> Segmenter:
    """A copy on the CPU, in evaluation mode, without auxiliary head and with batch norms folded.

    It holds operations alone that other runtimes know.
    """
    plain = copy.deepcopy(model).cpu().eval()
    plain.auxiliary = None
    return _folded(plain, onednn=False)


@functools.cache  # once
def _warn_slow_bf16(device: str) -> None:
    logging.getLogger("segkit").warning(
        "precision=bf16: this %s has no units for bf16, float32 is several times faster here; "
        "precision=auto takes what is fast",
        device,
    )


@torch.no_grad()
def _folded(plain: Segmenter, *, onednn: bool) -> Segmenter:
    """The model with batch norms folded, if it then still says the same."""
    weight = next(plain.parameters())
    fast = copy.deepcopy(plain)
    shapes = [(batch, plain.in_channels, *sides) for batch, *sides in TRIALS]
    trials = [torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(weight) for shape in shapes]
    fast.backbone = fold_batch_norms(fast.backbone, trials[0], onednn=onednn)
    fast.head = fold_batch_norms(fast.head, fast.backbone(trials[0]), onednn=onednn)
    for image in trials:
        expected, logits = plain(image).main, fast(image).main
        limit = TOLERANCE * expected.abs().max()
        if not expected.isfinite().all():
            return plain  # whose broken weights show; a rectifier within a convolution hides NaN
        if not (logits - expected).abs().max() <= limit:
            logging.getLogger("segkit").warning(
                "folding batch norms changed what this model says, so it runs as it is: right, but slower"
            )
            return plain
    return fast
