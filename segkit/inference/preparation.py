"""Copies of a model made for inference: batch norms folded, channels last, float32 or bf16."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch

from segkit.cpu import hold_memory, onednn, replace_slow_modules
from segkit.inference.fold import fold_batch_norms
from segkit.inference.protocol import pick_precision
from segkit.runtime.precision import supports_bf16

if TYPE_CHECKING:
    from segkit.models.network import Segmenter

LOG = logging.getLogger("segkit")
TOLERANCE = 1e-3  # of the largest logit; folding in float32 changes them by about a millionth
TRIAL_SHAPES = ((1, 65, 97), (2, 72, 64))  # batch, height, width; two, as a trace might fix one


def prepare(model: Segmenter, *, precision: Literal["auto", "float32", "bf16"] = "float32") -> Segmenter:
    """Return a faster copy in evaluation mode, without auxiliary head; logits are equal up to rounding.

    Args:
        model: not changed.
        precision: of weights and activations; normalization constants keep theirs. ``auto`` is bf16 where the
            model's device has units for it.
    """
    device = next(model.parameters()).device
    precision = pick_precision(precision, device)
    if hasattr(model, "with_precision"):  # an exported file, prepared for its own runtime
        return model.with_precision(precision)  # type: ignore[operator]
    if precision == "bf16" and not supports_bf16(device):
        _warn_slow_bf16(device.type)
    fast = copy.deepcopy(model).eval()
    fast.auxiliary = None
    is_cpu = device.type == "cpu"
    if is_cpu:
        hold_memory()
        replace_slow_modules(fast, bf16=precision == "bf16")
    if hasattr(fast, "backbone"):
        is_float32 = next(fast.parameters()).dtype == torch.float32
        fast = _fold(fast, use_onednn=is_float32 and is_cpu and onednn.has_onednn_convolution())
    if precision == "bf16":
        mean, std = fast.mean, fast.std
        fast.to(torch.bfloat16)
        fast.mean, fast.std = mean, std
    return fast.to(memory_format=torch.channels_last)


def make_portable(model: Segmenter) -> Segmenter:
    """Return a copy for export: on the CPU, batch norms folded, with standard operators only."""
    portable = copy.deepcopy(model).cpu().eval()
    portable.auxiliary = None
    return _fold(portable, use_onednn=False)


@functools.cache  # warn once per device
def _warn_slow_bf16(device: str) -> None:
    LOG.warning(
        "precision=bf16: this %s has no bf16 units; float32 is several times faster. precision=auto picks it",
        device,
    )


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    """Keep cuDNN from rounding to TF32, which is as coarse as ``TOLERANCE``."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@torch.no_grad()
def _fold(model: Segmenter, *, use_onednn: bool) -> Segmenter:
    """Return the model with batch norms folded, or the model itself if its logits would change."""
    weight = next(model.parameters())
    images = []
    for batch, height, width in TRIAL_SHAPES:
        generator = torch.Generator().manual_seed(0)
        images.append(torch.rand((batch, model.in_channels, height, width), generator=generator).to(weight))
    fast = copy.deepcopy(model)
    fast.backbone = fold_batch_norms(fast.backbone, images[0])
    fast.head = fold_batch_norms(fast.head, fast.backbone(images[0]))
    if use_onednn:
        for part in (fast.backbone, fast.head):
            onednn.fuse_operations(part)
    for image in images:
        with _full_float32():
            expected, logits = model(image).main, fast(image).main
        if not expected.isfinite().all():
            return model  # a ReLU inside a convolution would hide NaN of broken weights
        if not (logits - expected).abs().max() <= TOLERANCE * expected.abs().max():
            LOG.warning("folding batch norms changed the logits of this model: not folded, so slower")
            return model
    return fast
