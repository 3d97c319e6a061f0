"""Settings that are known to fail, told before they cost hours: each in a line, with its remedy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from segkit.data.label_map import DataError
from segkit.data.transforms import Augmentation, max_scaled_size
from segkit.runtime import distributed
from segkit.training.run import Training
from segkit.types import Dataset

FEW = 4  # images whose batch statistics are mostly noise (Wu and He 2018, figure 1)
HIGHEST = {"adamw": 5e-4, "sgd": 0.02 / 16}  # rates at which learned weights are lost; of SGD for an image


def check_training(run: Training, *, every: float) -> None:
    """Refuse what cannot do what it says.

    Args:
        run: at its beginning.
        every: ``evaluation.every``.

    Raises:
        ValueError: the run ends before its patience could.
    """
    patience, validations = run.schedule.patience, run.schedule.validations(every=every, samples=run.samples)
    if patience is not None and validations <= patience:
        raise ValueError(
            f"schedule.patience={patience}: this training has {validations} validation"
            f"{'s' if validations > 1 else ''} in all, so it would never end early; lower evaluation.every"
            f" ({every:g}) or set schedule.patience=null"
        )


def warnings(run: Training, model: Mapping[str, Any]) -> list[str]:
    """What is likely to go wrong with a run, a line each.

    Args:
        run: at its beginning.
        model: its section of the settings.
    """
    start = model.get("weights") or model["backbone"].get("weights")
    rules: list[Callable[[Training, Any], Iterator[str]]] = [
        _few_images,
        _high_rate,
        _frozen_fresh,
        _slow_average,
    ]
    return [line for rule in rules for line in rule(run, start)]


def warn_padding(train_set: Dataset, augment: Augmentation) -> Iterator[str]:
    """Warn of crops that are mostly padding even where an image is scaled up most; looks at five images."""
    crop = augment.crop_size
    if crop is None:
        return
    height, width = (crop, crop) if isinstance(crop, int) else crop
    shares = []
    for index in {place * (len(train_set) - 1) // 4 for place in range(5)}:
        with contextlib.suppress(DataError):  # reported where it is read for training
            rows, columns = max_scaled_size(train_set.read(index).label.shape, augment)
            shares.append(min(rows, height) * min(columns, width) / (height * width))
    if shares and max(shares) < 0.5:
        yield (
            f"augment.crop_size={crop}: images cover at most {max(shares):.0%} of a crop, the rest is padding"
            " that costs time and memory; use a smaller sizes.crop or a larger sizes.base"
        )


def _few_images(run: Training, start: Any) -> Iterator[str]:
    """Batch statistics over too few images; GPUs take those of all processes together."""
    images = run.schedule.batch_size // run.schedule.parts
    resting = {id(m) for module in run.resting for m in module.modules()}
    norms = [m for m in run.model.modules() if isinstance(m, _BatchNorm) and id(m) not in resting]
    kept = "schedule.freeze_norm=true, which keeps the statistics it has learned, or "
    processes = distributed.world_size() if run.device.type != "cuda" else 1
    if norms and processes > 1:
        images //= processes
        yield (
            f"{processes} processes on a CPU: batch normalization sees the images of one process at a time;"
            f" use {kept if start else ''}one process with more threads"
        )
    if norms and images < FEW:
        batch_size = 8 * run.schedule.parts * processes
        yield (
            f"batch normalization over {images} image{'s' if images > 1 else ''} at a time is mostly noise;"
            f" use {kept if start else ''}schedule.batch_size={batch_size} (a smaller sizes.crop makes room)"
        )


def _high_rate(run: Training, start: Any) -> Iterator[str]:
    name, rate = run.schedule.optimizer["name"], run.schedule.lr
    highest = HIGHEST.get(name, float("inf")) * (run.schedule.batch_size if name == "sgd" else 1)
    if start and rate > highest:
        yield (
            f"schedule.lr={rate:g} with {name} is high for a network that starts from {start}: much of what"
            f" it learned may be lost; try schedule.lr={highest / 5:.1g}, or ask lr_finder=true"
        )


def _frozen_fresh(run: Training, start: Any) -> Iterator[str]:
    frozen = [f"schedule.freeze={run.schedule.freeze}"] * (run.schedule.freeze > 0)
    frozen += ["schedule.freeze_norm=true"] * run.schedule.freeze_norm
    if frozen and not start:
        yield (
            f"{' and '.join(frozen)}: the network starts from scratch, so what is frozen has learned nothing;"
            " give model.weights=FILE or model.backbone.weights=imagenet"
        )


def _slow_average(run: Training, start: Any) -> Iterator[str]:
    del start
    ema = run.schedule.ema
    if ema is not None and run.length * (1 - ema) < 3:
        short = max(0.0, 1 - 10 / run.length)
        yield (
            f"schedule.ema={ema:g} averages over {1 / (1 - ema):,.0f} iterations, and the training has"
            f" {run.length:,}: what is scored lags behind; use schedule.ema={short:.3g} or less, or null"
        )
