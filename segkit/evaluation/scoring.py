"""The one way of scoring, in training and in testing: images in, figures out, summed over all processes."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from segkit.config import registry
from segkit.data.alignment import align_dataset
from segkit.data.label_map import DataError, Problem
from segkit.evaluation.intervals import ImageCounts, Interval
from segkit.evaluation.partial import EvaluatorCounts, evaluation_fingerprint
from segkit.inference.preparation import prepare
from segkit.inference.protocol import Protocol
from segkit.inference.sliding import Strip, predict
from segkit.runtime import distributed, signals
from segkit.types import Dataset, Evaluator, Sample

if TYPE_CHECKING:
    from segkit.models.network import Segmenter


log = logging.getLogger("segkit")


class StopEvaluation(Exception):  # noqa: N818 - named like StopIteration
    """Raised by ``on_image`` or ``on_strip`` to end an evaluation; what is counted so far counts."""


class Evaluation(NamedTuple):
    """What an evaluation found, the same on every process."""

    counts: Tensor  # (K, K) int64 on the CPU, rows are labels
    scores: dict[str, float]  # fractions of 1; empty if it was stopped before the first counted pixel
    protocol: Protocol
    seconds: float
    classes: Mapping[str, list[float]] = MappingProxyType(
        {}
    )  # columns by name, K values each; NaN where nothing counts
    category_iou: Mapping[str, float] = MappingProxyType({})  # empty where the classes have no categories
    images: int = 0  # that were counted
    skipped: int = 0  # that could not be read, with ``data.on_error=skip``
    intervals: Mapping[str, Interval] = MappingProxyType({})  # 95 % bootstrap intervals of the scores
    class_intervals: Sequence[Interval] = ()  # of the IoU of each class, and of each category behind them
    image_counts: np.ndarray | None = None  # (N, 3, K + C), ``intervals.count_pixels`` of each image

    @property
    def class_iou(self) -> list[float]:
        """IoU of each class; NaN for a class that neither labels nor predictions hold."""
        return self.classes.get("IoU", [float("nan")] * len(self.counts))


def evaluate(  # noqa: PLR0913 - one keyword for each thing a caller may watch
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
        model: on the device that is to compute; it is left alone.
        dataset: its images are shared out to the processes, none twice. Its classes are matched by name with
            those of the model, whose order counts and columns follow. With ``on_error`` "skip" one that
            cannot be read is told, counted and left out.
        protocol: how to look at each image.
        workers: processes that read ahead.
        on_image: called with each sample and its predicted ids (H, W) uint8, in the process that has them;
            ``StopEvaluation`` from it ends the evaluation early.
        on_strip: called before that with each sample and the merged scores of some of its rows, from top to
            bottom; ``StopEvaluation`` likewise.
        progress: show a bar.
        partial: folder for the counts of an unfinished evaluation; it goes when all is counted.
        resume: count on from what ``partial`` holds; ``on_image`` is not called again for those images.
        with_intervals: compute the bootstrap intervals of the scores, which takes up to two seconds.

    Raises:
        ValueError: the data set is empty or not one image can be read, its classes are not those of the
            model, or ``partial`` belongs to another evaluation.
    """
    started = time.perf_counter()
    dataset = _checked(model, dataset)
    device = next(model.parameters()).device
    protocol = protocol.resolve_precision(device)
    identity = evaluation_fingerprint(model, dataset.names, protocol) if partial else ""
    evaluators = _evaluators(dataset, protocol, device)
    image_counts = ImageCounts(evaluators, len(dataset), dataset.table.categories)
    fast = prepare(model, precision=protocol.precision)
    faults: list[str] = []
    enough = False
    evaluators["image_counts"] = image_counts
    with EvaluatorCounts(evaluators, partial, identity, images=len(dataset), resume=resume) as tally:
        waiting = [index for index in range(len(dataset)) if index not in tally.done]
        mine = waiting[distributed.rank() :: distributed.world_size()]
        on_error = getattr(dataset, "on_error", "stop")
        readable = _readable(_read(dataset, mine, workers), faults, on_error=on_error)
        samples = _uploaded(readable, device)
        for index, sample, image in _with_bar(samples, len(mine), shown=progress):
            watch = functools.partial(on_strip, sample) if on_strip else None
            try:
                prediction = predict(fast, image, protocol, on_strip=watch)
                if on_image:
                    on_image(sample, prediction.cpu().numpy())
            except StopEvaluation:
                enough = True
                break
            image_counts.index = index
            tally.add(index, sample.label, prediction)
    told = distributed.gather((len(tally.mine), len(faults), enough))
    images = len(tally.done) + sum(counted for counted, _, _ in told)
    skipped = sum(left_out for _, left_out, _ in told)
    total = tally.total()
    if not images and skipped:
        why = next(fault for part in distributed.gather(faults[-1:]) for fault in part)
        raise ValueError(f"there is nothing to score: none of the {skipped} images can be read; {why}")
    result = Evaluation(total["confusion"], {}, protocol, 0.0, images=images, skipped=skipped)
    if not result.counts.any() and any(left for _, _, left in told):
        return result
    result = _scored(result, total, evaluators)
    if with_intervals:
        result = _add_intervals(result, image_counts, total["image_counts"])
    return result._replace(seconds=time.perf_counter() - started)


def _add_intervals(result: Evaluation, image_counts: ImageCounts, counts: Tensor) -> Evaluation:
    bounds, class_bounds = image_counts.find_intervals(counts, absent=result.protocol.absent)
    return result._replace(
        intervals={name: bounds[name] for name in result.scores if name in bounds},
        class_intervals=class_bounds,
        image_counts=image_counts.get_pixels(counts),
    )


def _evaluators(dataset: Dataset, protocol: Protocol, device: torch.device) -> dict[str, Evaluator]:
    """The confusion matrix, and whatever else the protocol lists."""
    late = {"table": dataset.table, "absent": protocol.absent, "device": device}
    listed = {"confusion": True} | protocol.evaluators
    return registry.build_enabled("evaluation.evaluators", listed, **late)


def _with_bar(samples: Iterable[Any], number: int, *, shown: bool) -> Iterable[Any]:
    silent = None if shown and distributed.is_main() else True  # None: silent where there is no terminal
    return tqdm(samples, "scoring", number, leave=False, unit="image", disable=silent)


def _checked(model: Segmenter, dataset: Dataset) -> Dataset:
    if len(dataset) == 0:
        raise ValueError("the data set is empty: check data.root and data.val_split")
    dataset = align_dataset(dataset, getattr(model, "class_names", None))
    if dataset.table.num_classes != model.num_classes:
        raise ValueError(
            f"the model tells {model.num_classes} classes apart, {dataset.table.name} has "
            f"{dataset.table.num_classes}: score it on data with the classes it was trained on"
        )
    return dataset


def _scored(
    found: Evaluation, totals: Mapping[str, Tensor], evaluators: Mapping[str, Evaluator]
) -> Evaluation:
    """With the figures of every evaluator.

    Raises:
        ValueError: two of them have scores or columns of one name.
    """
    scores, classes, groups = dict(found.scores), dict(found.classes), dict(found.category_iou)
    for name, evaluator in evaluators.items():
        figures = evaluator.compute(totals[name])
        if twice := (scores.keys() & figures.scores.keys()) | (classes.keys() & figures.classes.keys()):
            raise ValueError(
                f"evaluation.evaluators.{name}: another evaluator has {', '.join(sorted(twice))} already;"
                " give each figure a name of its own"
            )
        scores.update(figures.scores)
        classes.update(figures.classes)
        groups.update(figures.groups)
    return found._replace(scores=scores, classes=classes, category_iou=groups)


def _read(dataset: Dataset, indices: Sequence[int], workers: int) -> Iterator[tuple[int, Sample | Problem]]:
    source: Any = _Indexed(dataset)
    keep: Any = _as_it_is
    obedient = _worker
    return iter(
        DataLoader(
            source, None, sampler=indices, num_workers=workers, collate_fn=keep, worker_init_fn=obedient
        )
    )


def _worker(_: int) -> None:
    cv2.setNumThreads(0)  # the workers are the threads; those of the parent are not in its copy
    signals.ignore_group_signals()


class _Indexed:
    """A data set as the loader wants it; a sample that cannot be read comes back as its fault.

    An error would not come out of a worker as itself.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Sample | Problem]:
        try:
            return index, self.dataset.read(index)
        except DataError as fault:
            return index, fault.problem


def _as_it_is(item: tuple[int, Sample | Problem]) -> tuple[int, Sample | Problem]:
    return item


def _readable(
    items: Iterable[tuple[int, Sample | Problem]], faults: list[str], *, on_error: str
) -> Iterator[tuple[int, Sample]]:
    """The samples among them; what is said of the others is logged and collected, or ends it all."""
    for index, item in items:
        if isinstance(item, Problem):
            if on_error == "stop":
                raise DataError(*item)
            faults.append(str(item))
            log.warning("skipped, %d by now: %s", len(faults), item)
        else:
            yield index, item


def _uploaded(
    samples: Iterable[tuple[int, Sample]], device: torch.device
) -> Iterator[tuple[int, Sample, Tensor]]:
    """Samples with their image (3, H, W) on the device.

    A GPU gets each image one ahead, in a stream of its own: its copy overlaps the computing of the last.
    """
    if device.type != "cuda":
        for index, sample in samples:
            yield index, sample, torch.from_numpy(sample.image).permute(2, 0, 1)
        return
    stream, ahead = torch.cuda.Stream(device), None
    for index, sample in samples:
        with torch.cuda.stream(stream):
            image = torch.from_numpy(sample.image).pin_memory().to(device, non_blocking=True)
            arrived = stream.record_event()
        if ahead is not None:
            yield _arrived(*ahead)
        ahead = index, sample, image, arrived
    if ahead is not None:
        yield _arrived(*ahead)


def _arrived(index: int, sample: Sample, image: Tensor, event: Any) -> tuple[int, Sample, Tensor]:
    now = torch.cuda.current_stream(image.device)
    now.wait_event(event)
    image.record_stream(now)
    return index, sample, image.permute(2, 0, 1)
