"""Scoring of a model on a data set, for training and testing, summed over all ranks."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from segkit.config import registry
from segkit.data.alignment import align_dataset
from segkit.data.label_map import DataError, Problem
from segkit.data.loaders import choose_start_method, init_worker
from segkit.evaluation import metrics
from segkit.evaluation.counts import Counts
from segkit.evaluation.intervals import Interval, find_bounds, resample_images
from segkit.evaluation.metrics import Absent
from segkit.inference.preparation import prepare
from segkit.inference.protocol import Protocol
from segkit.inference.sliding import Strip, predict
from segkit.runtime import distributed
from segkit.types import ClassTable, Dataset, Evaluator, EvaluatorResult, Sample

if TYPE_CHECKING:
    from segkit.models.network import Segmenter

LOG = logging.getLogger("segkit")


class StopEvaluation(Exception):  # noqa: N818 - named like StopIteration
    """Raised by ``on_image`` or ``on_strip`` to end an evaluation early; images counted so far are scored."""


class Evaluation(NamedTuple):
    """Result of an evaluation, equal on all ranks."""

    counts: Tensor  # (K, K), or (K, K + 1) with a column for no class; int64 on the CPU, rows are labels
    scores: dict[str, float]  # fractions of 1; empty if stopped before the first counted pixel
    protocol: Protocol
    seconds: float
    classes: Mapping[str, list[float]] = MappingProxyType({})  # columns of K values; NaN if undefined
    category_iou: Mapping[str, float] = MappingProxyType({})  # empty if the classes have no categories
    names: Sequence[str] = ()  # N, of the counted images
    skipped: int = 0  # unreadable images, with ``data.on_error=skip``
    intervals: Mapping[str, Interval] = MappingProxyType({})  # 95 % bootstrap intervals of the scores
    image_counts: np.ndarray | None = None  # (N, 3, K + C), ``metrics.count_pixels`` of each counted image

    @property
    def images(self) -> int:
        """Number of counted images."""
        return len(self.names)

    @property
    def class_iou(self) -> list[float]:
        """IoU of each class; NaN for a class in neither labels nor predictions."""
        return self.classes.get("IoU", [float("nan")] * len(self.counts))

    def class_table(self) -> dict[str, list[float]]:
        """Return IoU, recall, precision and share of the pixels of each class; NaN if undefined."""
        pixels = metrics.count_pixels(self.counts)
        scores, labeled = metrics.compute_class_scores(pixels), pixels[metrics.LABELED]
        columns = {name: scores[name].tolist() for name in ("IoU", "recall", "precision")}
        return columns | {"pixels": (labeled / max(1, labeled.sum())).tolist()}


def evaluate(  # noqa: PLR0913 - one keyword for each hook
    model: Segmenter,
    dataset: Dataset,
    protocol: Protocol,
    *,
    workers: int = 0,
    on_image: Callable[[Sample, np.ndarray], None] | None = None,
    on_strip: Callable[[Sample, Strip], None] | None = None,
    progress: bool = True,
    partial: Path | None = None,
    resume: bool = False,
    with_intervals: bool = True,
) -> Evaluation:
    """Score a model on a data set.

    Args:
        model: on the device to compute on; not changed.
        dataset: its images are split among the ranks. Its classes are matched by name with those of the model
            and counted in the model's order. With ``on_error`` "skip", unreadable images are logged, counted
            and skipped.
        protocol: scales, flips and windows of each image.
        workers: processes that read ahead.
        on_image: called on the image's rank with each sample and its class ids (H, W) uint8;
            ``StopEvaluation`` from it ends the evaluation early.
        on_strip: called before ``on_image`` with each sample and the merged scores of some of its rows, from
            top to bottom; may raise ``StopEvaluation`` too.
        progress: show a progress bar.
        partial: folder for the counts of an unfinished evaluation; deleted at the end.
        resume: continue from the counts in ``partial``; ``on_image`` is not called again for their images.
        with_intervals: compute the bootstrap intervals of the scores, which takes up to two seconds.

    Raises:
        ValueError: the data set is empty or unreadable, or its classes differ from those of the model.
    """
    dataset = _align_classes(model, dataset)
    device = next(model.parameters()).device
    protocol = protocol.resolve_precision(device)
    fast = prepare(model, precision=protocol.precision)

    def predict_images(indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray, Tensor]]:
        for index, sample in _read_samples(dataset, indices, workers):
            strip_callback = functools.partial(on_strip, sample) if on_strip else None
            prediction = predict(fast, sample.image, protocol, on_strip=strip_callback)
            if on_image:
                on_image(sample, prediction.cpu().numpy())
            yield index, sample.label, prediction

    fingerprint = ""
    if partial:
        fingerprint = hash_values(hash_weights(model), list(dataset.names), protocol.as_dict())
    counts = Counts(
        build_evaluators(dataset.table, protocol, device),
        dataset.table,
        num_images=len(dataset),
        folder=partial,
        fingerprint=fingerprint,
        resume=resume,
    )
    return score_predictions(
        predict_images, dataset, protocol, counts, progress=progress, with_intervals=with_intervals
    )


def score_predictions(
    predict_images: Callable[[Sequence[int]], Iterator[tuple[int, np.ndarray, Tensor]]],
    dataset: Dataset,
    protocol: Protocol,
    counts: Counts,
    *,
    progress: bool,
    with_intervals: bool = True,
) -> Evaluation:
    """Score the predictions for a data set, on all ranks.

    Args:
        predict_images: yields index, label (H, W) and prediction (H, W) of the images of these indices, or
            leaves them out.
        dataset: with the names and the classes.
        protocol: of the predictions.
        counts: of the images that are done.
        progress: show a progress bar.
        with_intervals: compute the bootstrap intervals of the scores.

    Raises:
        ValueError: nothing is scored, or two evaluators use the same name for a score or column.
    """
    started = time.perf_counter()
    is_stopped = False
    pending = [index for index in range(len(dataset)) if index not in counts.done]
    indices = pending[distributed.rank() :: distributed.world_size()]
    is_disabled = None if progress and distributed.is_main() else True  # None: without a terminal
    images = predict_images(indices)
    bar = tqdm(images, "scoring", len(indices), leave=False, unit="image", disable=is_disabled)
    try:
        for index, label, prediction in bar:
            counts.add(index, label, prediction)
    except StopEvaluation:
        is_stopped = True
    finally:
        counts.save()
    ranks = distributed.gather((counts.images, is_stopped))
    counted: list[int] = sorted(counts.done.union(*(images for images, _ in ranks)))
    is_stopped = any(stopped for _, stopped in ranks)
    states, by_image = counts.sum()
    confusion = states["confusion"]
    if not confusion.any():
        if is_stopped:
            return Evaluation(confusion, {}, protocol, time.perf_counter() - started)
        raise ValueError(
            "nothing to score: no image can be used, or all their pixels are ignored. Check data.val_split "
            "and the class table"
        )
    result = _compute_scores(states, counts.evaluators)
    by_image = {name: rows[counted] for name, rows in by_image.items()}
    intervals = {}
    if with_intervals:
        intervals = _find_intervals(by_image, counts.evaluators, dataset.table, protocol.absent)
    return Evaluation(
        confusion,
        result.scores,
        protocol,
        time.perf_counter() - started,
        classes=result.classes,
        category_iou=result.groups,
        names=[dataset.names[index] for index in counted],
        skipped=0 if is_stopped else len(dataset) - len(counted),
        intervals=intervals,
        image_counts=by_image["confusion"].numpy(),
    )


def hash_weights(model: nn.Module) -> str:
    """Return the SHA-256 of the names and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def hash_values(*values: Any) -> str:
    """Return the SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _align_classes(model: Segmenter, dataset: Dataset) -> Dataset:
    """Return the data set with its classes in the model's order."""
    if len(dataset) == 0:
        raise ValueError("the data set is empty: check data.root and data.val_split")
    dataset = align_dataset(dataset, getattr(model, "class_names", None))
    if dataset.table.num_classes != model.num_classes:
        raise ValueError(
            f"the model has {model.num_classes} classes but {dataset.table.name} has "
            f"{dataset.table.num_classes}: score it on data with the classes it was trained on"
        )
    return dataset


def build_evaluators(table: ClassTable, protocol: Protocol, device: torch.device) -> dict[str, Evaluator]:
    """Return the confusion matrix and the evaluators of the protocol, by name."""
    enabled = {"confusion": True} | protocol.evaluators
    options = {"table": table, "absent": protocol.absent, "device": device}
    return registry.build_enabled("evaluation.evaluators", enabled, **options)


def _compute_scores(states: Mapping[str, Tensor], evaluators: Mapping[str, Evaluator]) -> EvaluatorResult:
    """Return the scores of all evaluators."""
    scores, classes, groups = {}, {}, {}
    for name, evaluator in evaluators.items():
        computed = evaluator.compute(states[name])
        duplicates = (scores.keys() & computed.scores.keys()) | (classes.keys() & computed.classes.keys())
        if duplicates:
            raise ValueError(
                f"evaluation.evaluators.{name}: another evaluator already has {', '.join(sorted(duplicates))}"
                ". Rename its scores"
            )
        scores.update(computed.scores)
        classes.update(computed.classes)
        groups.update(computed.groups)
    return EvaluatorResult(scores, classes, groups)


def _find_intervals(
    by_image: Mapping[str, Tensor], evaluators: Mapping[str, Evaluator], table: ClassTable, absent: Absent
) -> dict[str, Interval]:
    """Return the bootstrap intervals of the scores of evaluators whose counts (N, ...) of images are kept."""
    intervals = {}
    for name, counts in by_image.items():
        totals = resample_images(counts.numpy())
        if name == "confusion":
            scores = metrics.score_split(totals, table, absent=absent)
        else:
            sums = torch.from_numpy(totals).to(counts.dtype)
            computed = [evaluators[name].compute(each_sum).scores for each_sum in sums]
            scores = {
                score: np.array([result.get(score, float("nan")) for result in computed])
                for score in computed[0]
            }
        intervals |= {score: find_bounds(values, len(counts)) for score, values in scores.items()}
    return intervals


def _read_samples(dataset: Dataset, indices: Sequence[int], workers: int) -> Iterator[tuple[int, Sample]]:
    """Yield (index, sample); unreadable ones are logged, or raise ``DataError``."""
    all_indices: Any = range(len(dataset))
    read: Any = functools.partial(_read_sample, dataset)
    loader = DataLoader(
        all_indices,
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        collate_fn=read,  # workers call it with each index
        worker_init_fn=init_worker,
        multiprocessing_context=choose_start_method(workers),
    )
    for index, item in loader:
        if not isinstance(item, Problem):
            yield index, item
        elif getattr(dataset, "on_error", "stop") == "stop":
            raise DataError(*item)
        else:
            LOG.warning("skipped unreadable image: %s", item)


def _read_sample(dataset: Dataset, index: int) -> tuple[int, Sample | Problem]:
    """Return a sample, or the problem of an unreadable one: a worker would change the exception."""
    try:
        return index, dataset.read(index)
    except DataError as error:
        return index, error.problem
