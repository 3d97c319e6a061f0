"""Checks of a training before it starts: settings that are known to fail, with a fix for each."""

from __future__ import annotations

import contextlib
import math
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
    if patience is None:
        return
    if math.ceil(patience * run.schedule.validation_period(every, run.samples)) >= run.length:
        raise ValueError(
            f"schedule.patience={patience}: this training has no more validations than that, so it would"
            f" never end early. Lower evaluation.every ({every:g}) or set schedule.patience=null."
        )


def find_warnings(run: Training, model: Mapping[str, Any]) -> Iterator[str]:
    """Yield warnings about what is likely to go wrong; ``model`` is the section of the settings."""
    weights = model.get("weights") or model["backbone"].get("weights")
    schedule = run.schedule
    yield from _warn_batch_norm(run, has_weights=bool(weights))
    name, lr = schedule.optimizer["name"], schedule.lr
    highest_lr = HIGHEST_LR.get(name, math.inf) * (schedule.batch_size if name == "sgd" else 1)
    if weights and lr > highest_lr:
        yield (
            f"schedule.lr={lr:g} with {name} may destroy what {weights} has learned; try"
            f" schedule.lr={highest_lr / 5:.1g}, or run lr_finder=true"
        )
    if (schedule.freeze or schedule.freeze_norm) and not weights:
        yield "the network starts from scratch, so its frozen layers stay random; set model.weights=FILE"
    ema = schedule.ema
    if ema is not None and run.length * (1 - ema) < 3:
        yield (
            f"schedule.ema={ema:g} averages over {1 / (1 - ema):,.0f} of {run.length:,} iterations, so the"
            f" validated weights lag behind; use at most {max(0.0, 1 - 10 / run.length):.3g}, or null"
        )


def _warn_batch_norm(run: Training, *, has_weights: bool) -> Iterator[str]:
    """Warn of batch statistics over too few images; GPUs compute them over all processes."""
    frozen = {id(m) for module in run.frozen_modules for m in module.modules()}
    if all(id(m) in frozen for m in run.model.modules() if isinstance(m, _BatchNorm)):
        return
    processes = 1 if run.device.type == "cuda" else distributed.world_size()
    images = run.schedule.batch_size // run.schedule.loader_batches // processes
    fix = "schedule.freeze_norm=true" if has_weights else "a larger schedule.batch_size"
    if processes > 1:
        yield (
            f"{processes} processes on a CPU: batch normalization sees the images of one process at a time;"
            f" use {fix}, or one process with more threads"
        )
    if images < FEW_IMAGES:
        yield f"batch normalization over {format_count(images, 'image')} at a time is mostly noise; use {fix}"


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
