"""Checks of a training before it starts: settings that are known to fail, with a fix for each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from segkit.data.label_map import DataError
from segkit.data.transforms import Augmentation, max_scaled_size
from segkit.runtime import distributed
from segkit.runtime.text import format_count
from segkit.training.run import Training
from segkit.types import Dataset

FEW_IMAGES = 4  # batch statistics of fewer are mostly noise (Wu and He 2018, figure 1)
HIGHEST_LR = {"adamw": 2e-3, "sgd": 0.02 / 16}  # pretrained weights may be lost above; of SGD per image


def check_patience(run: Training, *, every: float) -> None:
    """Check that a run has more validations than ``schedule.patience``.

    Raises:
        ValueError: the run ends before its patience can.
    """
    patience = run.schedule.patience
    validations = run.schedule.count_validations(every=every, samples=run.samples)
    if patience is not None and validations <= patience:
        raise ValueError(
            f"schedule.patience={patience}: this training has {format_count(validations, 'validation')} in"
            f" all, so it would never end early. Lower evaluation.every ({every:g}) or set"
            " schedule.patience=null."
        )


def find_warnings(run: Training, model: Mapping[str, Any]) -> list[str]:
    """Return warnings about what is likely to go wrong."""
    weights = model.get("weights") or model["backbone"].get("weights")
    warnings = list(_warn_batch_norm(run, has_weights=bool(weights)))
    schedule = run.schedule
    name, lr = schedule.optimizer["name"], schedule.lr
    highest_lr = HIGHEST_LR.get(name, float("inf"))
    if name == "sgd":
        highest_lr *= schedule.batch_size
    if weights and lr > highest_lr:
        warnings.append(
            f"schedule.lr={lr:g} with {name} is high for a network that starts from {weights}, and may"
            f" destroy what it has learned; try schedule.lr={highest_lr / 5:.1g}, or run lr_finder=true"
        )
    frozen = [f"schedule.freeze={schedule.freeze}"] if schedule.freeze else []
    if schedule.freeze_norm:
        frozen.append("schedule.freeze_norm=true")
    if frozen and not weights:
        warnings.append(
            f"{' and '.join(frozen)}: the network starts from scratch, so the frozen layers stay random; set"
            " model.weights=FILE or model.backbone.weights=imagenet"
        )
    ema = schedule.ema
    if ema is not None and run.length * (1 - ema) < 3:
        suggestion = max(0.0, 1 - 10 / run.length)
        warnings.append(
            f"schedule.ema={ema:g} averages over {1 / (1 - ema):,.0f} iterations, and the training has"
            f" {run.length:,}, so the validated weights lag behind; use schedule.ema={suggestion:.3g} or"
            " less, or null"
        )
    return warnings


def _warn_batch_norm(run: Training, *, has_weights: bool) -> Iterator[str]:
    """Warn of batch statistics over too few images; GPUs compute them over all processes."""
    frozen = {id(m) for module in run.frozen_modules for m in module.modules()}
    if all(id(m) in frozen for m in run.model.modules() if isinstance(m, _BatchNorm)):
        return
    if has_weights:
        alternative = "schedule.freeze_norm=true, which keeps the learned statistics, or "
    else:
        alternative = ""
    micro_batches = run.schedule.loader_batches
    processes = 1 if run.device.type == "cuda" else distributed.world_size()
    images = run.schedule.batch_size // micro_batches // processes
    if processes > 1:
        yield (
            f"{processes} processes on a CPU: batch normalization sees the images of one process at a time;"
            f" use {alternative}one process with more threads"
        )
    if images < FEW_IMAGES:
        yield (
            f"batch normalization over {format_count(images, 'image')} at a time is mostly noise; use"
            f" {alternative}schedule.batch_size={8 * micro_batches * processes} (a smaller sizes.crop makes"
            " room)"
        )


def warn_padding(train_set: Dataset, augment: Augmentation) -> Iterator[str]:
    """Warn of crops that are mostly padding even at the largest scale; reads five images."""
    crop = augment.crop_size
    if crop is None:
        return
    height, width = (crop, crop) if isinstance(crop, int) else crop
    shares = []
    for index in {place * (len(train_set) - 1) // 4 for place in range(5)}:
        with contextlib.suppress(DataError):  # reported when it is read for training
            rows, columns = max_scaled_size(train_set.read(index).label.shape, augment)
            shares.append(min(rows, height) * min(columns, width) / (height * width))
    if shares and max(shares) < 0.5:
        yield (
            f"augment.crop_size={crop}: images cover at most {max(shares):.0%} of a crop, the rest is padding"
            " that costs time and memory; use a smaller sizes.crop or a larger sizes.base"
        )
