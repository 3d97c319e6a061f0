"""Scoring of a model on a data set, for training and testing, summed over all ranks."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from segkit.config import registry
from segkit.data.alignment import align_dataset
from segkit.data.label_map import DataError, Problem
from segkit.data.loaders import choose_start_method, init_worker
from segkit.evaluation import metrics
from segkit.evaluation.intervals import ImageCounts, Interval
from segkit.evaluation.partial import EvaluatorCounts, evaluation_fingerprint
from segkit.inference.preparation import prepare
from segkit.inference.protocol import Protocol
from segkit.inference.sliding import Strip, predict
from segkit.runtime import distributed
from segkit.types import Dataset, Evaluator, Sample

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
        ValueError: the data set is empty or unreadable, its classes differ from those of the model, or
            ``partial`` belongs to another evaluation.
    """
    started = time.perf_counter()
    dataset = _align_classes(model, dataset)
    device = next(model.parameters()).device
    protocol = protocol.resolve_precision(device)
    fingerprint = evaluation_fingerprint(model, dataset.names, protocol) if partial else ""
    evaluators = _build_evaluators(dataset, protocol, device)
    image_counts = ImageCounts(evaluators, len(dataset), dataset.table.categories)
    evaluators["image_counts"] = image_counts
    fast = prepare(model, precision=protocol.precision)
    problems: list[str] = []
    is_stopped = False
    with EvaluatorCounts(evaluators, partial, fingerprint, num_images=len(dataset), resume=resume) as counts:
        pending = [index for index in range(len(dataset)) if index not in counts.done]
        indices = pending[distributed.rank() :: distributed.world_size()]
        is_disabled = None if progress and distributed.is_main() else True  # None: without a terminal
        samples = _read_samples(dataset, indices, workers, problems)
        bar = tqdm(samples, "scoring", len(indices), leave=False, unit="image", disable=is_disabled)
        for index, sample in bar:
            try:
                strip_callback = functools.partial(on_strip, sample) if on_strip else None
                prediction = predict(fast, sample.image, protocol, on_strip=strip_callback)
                if on_image:
                    on_image(sample, prediction.cpu().numpy())
            except StopEvaluation:
                is_stopped = True
                break
            image_counts.index = index
            counts.add(index, sample.label, prediction)
    ranks = distributed.gather((counts.images, len(problems), is_stopped))
    counted: list[int] = sorted(counts.done.union(*(images for images, _, _ in ranks)))
    skipped = sum(unreadable for _, unreadable, _ in ranks)
    states = counts.sum_states()
    if not counted and skipped:
        problem = next(line for lines in distributed.gather(problems[-1:]) for line in lines)
        raise ValueError(f"nothing to score: none of the {skipped} images can be read. The last: {problem}")
    result = Evaluation(
        counts=states["confusion"],
        scores={},
        protocol=protocol,
        seconds=0.0,
        names=[dataset.names[index] for index in counted],
        skipped=skipped,
    )
    if not result.counts.any() and any(stopped for _, _, stopped in ranks):
        return result
    result = add_scores(result, states, evaluators)
    if with_intervals:
        result = add_intervals(result, image_counts, states["image_counts"][counted])
    return result._replace(seconds=time.perf_counter() - started)


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


def _build_evaluators(dataset: Dataset, protocol: Protocol, device: torch.device) -> dict[str, Evaluator]:
    """Return the confusion matrix and the evaluators of the protocol, by name."""
    options = {"table": dataset.table, "absent": protocol.absent, "device": device}
    enabled = {"confusion": True} | protocol.evaluators
    return registry.build_enabled("evaluation.evaluators", enabled, **options)


def add_scores(
    result: Evaluation, states: Mapping[str, Tensor], evaluators: Mapping[str, Evaluator]
) -> Evaluation:
    """Return the result with the scores of all evaluators.

    Raises:
        ValueError: two evaluators use the same name for a score or column.
    """
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
    return result._replace(scores=scores, classes=classes, category_iou=groups)


def add_intervals(result: Evaluation, image_counts: ImageCounts, state: Tensor) -> Evaluation:
    """Return the result with the bootstrap intervals of its scores; ``state`` (N, M) of counted images."""
    intervals = image_counts.find_intervals(state, absent=result.protocol.absent)
    return result._replace(
        intervals={name: intervals[name] for name in result.scores if name in intervals},
        image_counts=image_counts.get_pixels(state),
    )


def _read_samples(
    dataset: Dataset, indices: Sequence[int], workers: int, problems: list[str]
) -> Iterator[tuple[int, Sample]]:
    """Yield (index, sample); unreadable ones are logged and added to ``problems``, or raise ``DataError``."""
    samples: Any = _SampleOrProblem(dataset)
    collate: Any = _return_item
    loader = DataLoader(
        samples,
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=init_worker,
        multiprocessing_context=choose_start_method(workers),
    )
    for index, item in loader:
        if not isinstance(item, Problem):
            yield index, item
        elif getattr(dataset, "on_error", "stop") == "stop":
            raise DataError(*item)
        else:
            problems.append(str(item))
            LOG.warning("skipped unreadable image (%d so far): %s", len(problems), item)


class _SampleOrProblem:
    """A data set that returns the problem of an unreadable sample; a worker would change the exception."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[int, Sample | Problem]:
        try:
            return index, self.dataset.read(index)
        except DataError as error:
            return index, error.problem


def _return_item(item: Any) -> Any:
    """Replace the default collation, which would convert arrays to tensors."""
    return item
