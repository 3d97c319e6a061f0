"""Scores of masks that any tool has predicted, against a data set.

Predictions are matched to images by name, read exactly and never resized. One joint histogram of label and
prediction is counted per image, so scoring takes little more time than decoding the files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from segkit.config import registry
from segkit.data.label_map import DataError, LabelMap, Problem
from segkit.data.listing import walk_files
from segkit.data.pairs import Pairs
from segkit.data.reading import MASK_SUFFIXES, read_mask
from segkit.evaluation import intervals, metrics
from segkit.evaluation.instance_iou import (
    InstancePixels,
    average,
    compute_instance_iou,
    find_instance_file,
    measure_instances,
)
from segkit.evaluation.intervals import Interval
from segkit.runtime import files
from segkit.types import Evaluator, ignore_index

Format = Literal["ids", "raw", "colors"]
FORMATS = {
    "ids": "class ids 0..K-1, such as Cityscapes' train ids",
    "raw": "ids of the data set's own masks",
    "colors": "colors of the class table",
}
ENDINGS = ("_gtFine_labelTrainIds", "_gtFine_labelIds", "_gtFine_color", "_leftImg8bit", "_labelTrainIds")
ENDINGS += ("_labelIds", "_predictions", "_prediction", "_pred", "_mask", "_ids", "_colors", "_color")
SAMPLED = 16  # predictions that are read to detect the format
SAVE_EVERY = 64  # images between two saves of the counts
LISTED = 20  # problems in an error message
AHEAD = 32  # images that may be counted ahead of the one that is added


class MaskScores(NamedTuple):
    """Scores of a folder of predictions; fractions of 1, NaN where a class has nothing to count."""

    scores: dict[str, float]
    intervals: dict[str, Interval]
    class_iou: list[float]
    class_intervals: list[Interval]
    category_iou: dict[str, float]
    category_intervals: dict[str, Interval]
    columns: dict[str, list[float]]  # further scores of the classes, K values each
    counts: (
        np.ndarray
    )  # (K, K + 1) int64, rows are labels; the last column counts pixels predicted as no class
    image_counts: np.ndarray  # (N, 3, K + C) int64, ``metrics.count_pixels`` of each image
    names: list[str]  # N, of the images
    format: Format
    skipped: int  # images without a usable prediction, with ``on_error="skip"``


class Counted(NamedTuple):
    """Counts of one image, and what further evaluators need."""

    counts: np.ndarray  # (K, K + 1)
    instances: Sequence[InstancePixels] = ()
    label: np.ndarray | None = None
    prediction: np.ndarray | None = None  # (H, W) class ids, K for no class


Result = tuple[int, Counted | Problem]


class Decoder:
    """Class ids of stored predictions.

    Args:
        table: of the data set.
        format: what the predictions hold.
    """

    def __init__(self, table: LabelMap, format: Format) -> None:
        self.format: Format = format
        self.classes = table.num_classes
        taken = {entry.color for entry in table.classes}  # Cityscapes' polegroup has the color of pole
        ignored = [entry for entry in table.entries if entry.ignore and entry.color not in taken]
        self.palette = replace(table, entries=(*table.classes, *ignored))
        if format == "raw":
            known = {entry.id: self.classes for entry in table.entries}
            known |= {entry.id: index for index, entry in enumerate(table.classes)}
        else:
            known = {ignore_index(self.classes): self.classes}
            known |= {index: index for index in range(self.classes)}
        self.lookup = np.full(
            1 << 16, -1, np.int32
        )  # class id of each stored id, K for no class, -1 for unknown
        for value, index in known.items():
            if value >= 0:
                self.lookup[value] = index

    def knows(self, values: Iterable[int], *, classes_only: bool) -> bool:
        """Return whether all values are ids of classes or, unless ``classes_only``, of ignored entries."""
        most = self.classes - 1 if classes_only else self.classes
        return all(0 <= value < len(self.lookup) and 0 <= self.lookup[value] <= most for value in values)

    def decode(self, stored: np.ndarray, file: Path) -> np.ndarray:
        """Return the class ids (H, W) of a prediction as stored; K where it is no class.

        Raises:
            DataError: the prediction holds values that the format does not have.
        """
        if self.format == "colors":
            if stored.ndim != 3:
                text = "has one channel, not the colors of the class table"
                raise DataError("format", file, text, "set predictions_format=ids or raw")
            ids = self.palette.encode(stored, file)
            return np.where(ids == ignore_index(self.classes), self.classes, ids).astype(np.int32)
        if stored.ndim == 3:
            text = "has three channels, not one id per pixel"
            raise DataError("format", file, text, "set predictions_format=colors")
        if stored.dtype.kind == "i" and (stored.min() < 0 or stored.max() >= len(self.lookup)):
            raise self._unknown(stored[(stored < 0) | (stored >= len(self.lookup))], file)
        ids = self.lookup[stored]
        if (ids < 0).any():
            raise self._unknown(stored[ids < 0], file)
        return ids

    def count(self, label: np.ndarray, stored: np.ndarray, file: Path) -> np.ndarray:
        """Return the counts (K, K + 1) of one image; ignored pixels of the label count nowhere.

        Args:
            label: (H, W) class ids.
            stored: the prediction as ``read_mask`` returns it.
            file: named in messages.

        Raises:
            DataError: the sizes differ, or the prediction holds values that the format does not have.
        """
        if stored.shape[:2] != label.shape:
            (rows, columns), (height, width) = stored.shape[:2], label.shape
            text = f"is {columns}x{rows} pixels, its label {width}x{height}"
            raise DataError("size", file, text, "predict at the size of the label; masks are not resized")
        if (
            label.dtype == np.uint8
            and stored.dtype == np.uint8
            and stored.ndim == 2
            and self.format != "colors"
        ):
            joint = _joint_histogram(label, stored)[: self.classes]
            columns = self.lookup[:256]
            if joint[:, columns < 0].any():
                raise self._unknown(np.flatnonzero(joint.any(0) & (columns < 0)), file)
            is_column = columns[:, None] == np.arange(self.classes + 1)
            return (joint.astype(float) @ is_column).astype(np.int64)  # exact: counts are below 2^53
        ids = self.decode(stored, file)
        is_scored = label != ignore_index(self.classes)
        pairs = label[is_scored].astype(np.int64) * (self.classes + 1) + ids[is_scored]
        size = self.classes * (self.classes + 1)
        return np.bincount(pairs, minlength=size).reshape(self.classes, self.classes + 1)

    def _unknown(self, values: np.ndarray, file: Path) -> DataError:
        distinct = np.unique(values)
        more = " and more" if len(distinct) > 8 else ""
        text = f"holds {', '.join(map(str, distinct[:8]))}{more}, which {FORMATS[self.format]} do not have"
        others = " or ".join(name for name in FORMATS if name != self.format)
        return DataError("values out of range", file, text, f"set predictions_format={others}, or correct it")


def score_masks(  # noqa: PLR0913 - one keyword for each thing a caller may choose
    predictions: str | Path,
    dataset: Pairs,
    *,
    format: Format | Literal["auto"] = "auto",
    absent: metrics.Absent = "exclude",
    evaluators: Mapping[str, Any] = MappingProxyType({}),
    on_error: Literal["stop", "skip"] = "stop",
    workers: int | None = None,
    partial: Path | None = None,
    progress: bool = False,
) -> MaskScores:
    """Score a folder of predicted masks.

    Args:
        predictions: folder of PNG (or BMP, TIFF, ...) masks named after the images of the data set, or after
            their file names; usual endings such as ``_pred`` or ``_gtFine_labelIds`` may follow.
        dataset: whose masks are the labels.
        format: ``ids`` (0..K-1), ``raw`` (ids of the data set's masks), ``colors`` (of its class table) or
            ``auto``, which reads a sample of the predictions.
        absent: what a class counts in a mean that neither labels nor predictions hold.
        evaluators: further ones, as in ``evaluation.evaluators``, such as ``{"boundary": True}``.
        on_error: ``stop`` refuses missing, unknown and unusable predictions; ``skip`` leaves their images
            out and counts them in ``skipped``.
        workers: threads; None takes one per core.
        partial: file for the counts of an interrupted call, which the next call continues.
        progress: show a bar.

    Raises:
        ValueError: predictions are missing, match no image, have another size or hold other values; the
            format cannot be detected; or nothing is scored.
    """
    folder = Path(predictions).expanduser()
    matched, problems = match_predictions(folder, dataset)
    if problems and on_error == "stop":
        raise ValueError(list_problems(problems, folder))
    if not matched:
        raise ValueError(f"{folder}: no file is named after an image of {dataset.name}")
    table = dataset.table
    if format == "auto":
        format = detect_format(matched, dataset)
    decoder = Decoder(table, format)
    late = {"table": table, "absent": absent, "device": "cpu"}
    further = registry.build_enabled("evaluation.evaluators", evaluators, **late)
    store = _Store(partial, fingerprint_predictions(dataset, matched, format, evaluators), table, further)
    remaining = [index for index in matched if index not in store.counts]

    def count(index: int) -> Result:
        file = matched[index]
        try:
            label, stored = dataset.read_label(index), read_mask(file, "any")
            counts = decoder.count(label, stored, file)
            instance_file = find_instance_file(dataset.pairs[index].label)
            if not (further or instance_file):
                return index, Counted(counts)
            ids = decoder.decode(stored, file)
            instances = measure_instances(instance_file, ids, table) if instance_file else []
            return index, Counted(counts, instances, label, ids)
        except DataError as error:
            return index, error.problem

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool, store:
        bar = tqdm(total=len(remaining), desc="scoring", unit="image", disable=None if progress else True)
        for index, result in _map_bounded(pool, count, remaining):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                store.add(index, result)
            bar.update()
        bar.close()
    if problems and on_error == "stop":
        raise ValueError(list_problems(problems, folder))
    store.remove()
    return _summarize(store, dataset, format, absent)


def match_predictions(folder: Path, dataset: Pairs) -> tuple[dict[int, Path], list[Problem]]:
    """Return the prediction of each image, by index, and files and images that have no partner.

    A file belongs to an image if its path below the folder, or its file name where that is unique, is the
    image's name in the data set or the name of its image or mask file, with or without a usual ending.

    Raises:
        ValueError: the folder does not exist.
    """
    if not folder.is_dir():
        raise ValueError(f"predictions={folder}: there is no such folder")
    owners: dict[str, set[int]] = {}
    for index, pair in enumerate(dataset.pairs):
        stems = {pair.name, pair.image.stem, pair.label.stem, Path(pair.name).name}
        for key in stems | {_remove_ending(stem) for stem in stems}:
            owners.setdefault(key, set()).add(index)
    found: dict[int, list[Path]] = {}
    problems = []
    for file in walk_files(folder):
        if file.suffix.lower() not in MASK_SUFFIXES:
            continue
        path = file.relative_to(folder).with_suffix("").as_posix()
        keys = (path, _remove_ending(path), file.stem, _remove_ending(file.stem))
        owner = next((owners[key] for key in keys if key in owners), set())
        if len(owner) == 1:
            found.setdefault(next(iter(owner)), []).append(file)
        else:
            text = f"belongs to {len(owner)} images of {dataset.name}" if owner else "belongs to no image"
            remedy = "keep the folders of the images" if owner else "remove it, or name it after an image"
            problems.append(Problem("extra prediction", str(file), text, remedy))
    for index, pair in enumerate(dataset.pairs):
        several = found.get(index, [])
        if not several:
            text = f"has no prediction: expected {pair.name}.png"
            problems.append(Problem("missing prediction", str(pair.image), text, ""))
        elif len(several) > 1:
            text = f"has {len(several)} predictions: {', '.join(str(file) for file in several[:3])}"
            problems.append(Problem("several predictions", str(pair.image), text, "keep one"))
    return {index: several[0] for index, several in sorted(found.items()) if len(several) == 1}, problems


def detect_format(predictions: Mapping[int, Path], dataset: Pairs) -> Format:
    """Return the format of predictions, from a sample of them.

    Three channels are colors. Otherwise a format fits if all stored values are ids of classes, or at least
    known. If both formats fit and differ, the one that agrees with the labels on more than twice as many
    pixels is taken.

    Args:
        predictions: files by index of their image.
        dataset: whose masks are the labels.

    Raises:
        ValueError: no format fits, or both do and the labels do not decide.
    """
    indices = list(predictions)[:: max(1, len(predictions) // SAMPLED)]
    with ThreadPoolExecutor() as pool:
        masks = list(pool.map(_read_if_usable, [predictions[index] for index in indices]))
    sample = {index: stored for index, stored in zip(indices, masks, strict=True) if stored is not None}
    if any(stored.ndim == 3 for stored in sample.values()):
        return "colors"
    values = {value for stored in sample.values() for value in _list_values(stored)}
    ids, raw = Decoder(dataset.table, "ids"), Decoder(dataset.table, "raw")
    fitting = [decoder for decoder in (ids, raw) if decoder.knows(values, classes_only=True)]
    if not fitting:
        fitting = [decoder for decoder in (ids, raw) if decoder.knows(values, classes_only=False)]
    if len(fitting) == 1 or (fitting and all(ids.lookup[v] == raw.lookup[v] for v in values)):
        return fitting[0].format
    if fitting:
        agreement = [_count_agreement(decoder, sample, dataset) for decoder in fitting]
        if max(agreement) > 2 * min(agreement):
            return fitting[agreement.index(max(agreement))].format
    shown = ", ".join(map(str, sorted(values)[:12]))
    what = f"may be {FORMATS['ids']} or" if fitting else f"are neither {FORMATS['ids']} nor"
    raise ValueError(
        f"predictions hold the values {shown}, which {what} {FORMATS['raw']}. "
        "Set predictions_format=ids, raw or colors"
    )


def _count_agreement(decoder: Decoder, sample: Mapping[int, np.ndarray], dataset: Pairs) -> int:
    """Return the number of pixels on which predictions agree with labels of their size."""
    total = 0
    for index, stored in sample.items():
        label = dataset.read_label(index)
        if label.shape == stored.shape:
            total += int((decoder.lookup[stored] == label).sum())
    return total


def _read_if_usable(file: Path) -> np.ndarray | None:
    try:
        return read_mask(file, "any")
    except DataError:
        return None  # reported when it is scored


def _list_values(stored: np.ndarray) -> list[int]:
    """Return the distinct values of ids. Counting takes a tenth of the time of sorting."""
    if stored.dtype == np.uint8:
        return np.flatnonzero(np.bincount(stored.ravel(), minlength=256)).tolist()
    return np.unique(stored).tolist()


def _remove_ending(name: str) -> str:
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)


def _joint_histogram(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return how often each pair of values (256, 256) occurs in two uint8 arrays (H, W).

    Neighbors are mostly equal, and adding to the same bin again waits for the last addition. So 16 parts of
    the arrays are interleaved.
    """
    pixels = [np.ascontiguousarray(array).ravel() for array in (first, second)]
    total = np.zeros((256, 256), np.int64)
    whole = first.size // 16 * 16
    np.add.at(total, (pixels[0][whole:], pixels[1][whole:]), 1)
    for start in range(0, whole, 1 << 24):  # OpenCV counts in float32, exact up to 2^24
        part = [
            cv2.transpose(array[start : min(start + (1 << 24), whole)].reshape(16, -1)) for array in pixels
        ]
        total += cv2.calcHist(part, [0, 1], None, [256, 256], [0, 256, 0, 256]).astype(np.int64)
    return total


def _map_bounded(
    pool: ThreadPoolExecutor, function: Callable[[int], Result], items: Sequence[int]
) -> Iterator[Result]:
    """Yield results in order; a bounded number is computed ahead, so that memory stays flat."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class _Store:
    """Counts by image, kept in a file so that an interrupted call can be continued."""

    def __init__(
        self, file: Path | None, identity: str, table: LabelMap, evaluators: Mapping[str, Evaluator]
    ) -> None:
        self.file, self.identity, self.categories = file, identity, table.categories
        self.total = np.zeros((table.num_classes, table.num_classes + 1), np.int64)
        self.instances = np.zeros((4, table.num_classes))
        self.has_instances = False
        self.evaluators = evaluators
        self.earlier = {name: evaluator.state() for name, evaluator in evaluators.items()}  # zero
        self.counts: dict[int, np.ndarray] = {}
        self.unsaved = 0
        if file is not None and file.is_file():
            self._load(file)

    def __enter__(self) -> _Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()

    def add(self, index: int, image: Counted) -> None:
        """Add the counts of an image."""
        self.total += image.counts
        self.counts[index] = metrics.count_pixels(image.counts, self.categories)
        for item in image.instances:
            self.has_instances = True
            self.instances[:, item.class_id] += item[1:]
        if image.label is not None and image.prediction is not None and self.evaluators:
            prediction = image.prediction.astype(image.label.dtype)
            for evaluator in self.evaluators.values():
                evaluator.update(image.label, torch.from_numpy(prediction))
        self.unsaved += 1
        if self.unsaved >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write the file, if there is one and something is new."""
        if self.file is None or not self.unsaved:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"total": self.total, "index": np.array(sorted(self.counts)), "counts": self.stack()}
        arrays |= {"identity": np.array(self.identity), "instances": self.instances}
        arrays |= {f"state_{name}": state.numpy() for name, state in self.sum_states().items()}
        with files.atomic_write(self.file) as out:
            np.savez(out, **arrays)
        self.unsaved = 0

    def sum_states(self) -> dict[str, Tensor]:
        """Return the states of the evaluators, those of an interrupted call included."""
        return {name: self.earlier[name] + evaluator.state() for name, evaluator in self.evaluators.items()}

    def remove(self) -> None:
        """Remove the file."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)

    def stack(self) -> np.ndarray:
        """Return the counts of all images in their order, (N, 3, K + C)."""
        return np.stack([self.counts[index] for index in sorted(self.counts)])

    def _load(self, file: Path) -> None:
        try:
            with np.load(file) as stored:
                if str(stored["identity"]) != self.identity or stored["total"].shape != self.total.shape:
                    return
                earlier = {name: torch.from_numpy(stored[f"state_{name}"]) for name in self.evaluators}
                self.instances += stored["instances"]
                self.has_instances = bool(self.instances.any())
                self.earlier = earlier
                self.total += stored["total"]
                self.counts = dict(zip(stored["index"].tolist(), stored["counts"], strict=True))
        except (OSError, ValueError, KeyError):
            return  # damaged: everything is counted again


def fingerprint_predictions(
    dataset: Pairs, matched: Mapping[int, Path], format: Format, evaluators: Mapping[str, Any]
) -> str:
    """Return a hash of what the counts depend on: labels, predictions, class table, format, evaluators."""
    stats = [
        [str(file), file.stat().st_size, file.stat().st_mtime_ns]
        for index, prediction in matched.items()
        for file in (dataset.pairs[index].label, prediction)
    ]
    content = json.dumps([stats, dataset.table.to_plain(), format, dict(evaluators)])
    return hashlib.sha256(content.encode()).hexdigest()


def list_problems(problems: Sequence[Problem], folder: Path) -> str:
    """Return the message for predictions that cannot be used: a count of each kind, and the first ones."""
    lines = [str(problem) for problem in problems[:LISTED]]
    if len(problems) > LISTED:
        lines.append(f"... and {len(problems) - LISTED} more")
    kinds = {problem.kind for problem in problems}
    summary = ", ".join(f"{sum(p.kind == kind for p in problems)} x {kind}" for kind in sorted(kinds))
    return "\n".join([f"{folder}: {summary}. data.on_error=skip leaves these images out.", *lines])


def _score_total(counts: np.ndarray, absent: metrics.Absent) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.score_pixels(counts, absent=absent).items()}


def _summarize(store: _Store, dataset: Pairs, format: Format, absent: metrics.Absent) -> MaskScores:
    table, classes = dataset.table, dataset.table.num_classes
    if not store.total.sum():
        raise ValueError("there is nothing to score: no prediction is usable, or every label is ignored")
    counts = store.stack()
    total = counts.sum(0)
    scores = _score_total(total[:, :classes], absent)
    if all(table.categories):
        scores["mIoU_category"] = _score_total(total[:, classes:], absent)["mIoU"]
    if table.name == "ade20k":
        scores["ADE20K"] = metrics.ade20k_score(scores)
    columns: dict[str, list[float]] = {}
    for name, state in store.sum_states().items():
        result = store.evaluators[name].compute(state)
        scores |= result.scores
        columns |= {key: list(values) for key, values in result.classes.items()}
    if store.has_instances:
        columns["iIoU"], instance_categories = compute_instance_iou(store.instances, store.total, table)
        scores["iIoU"] = average(columns["iIoU"])
        scores["iIoU_category"] = average(list(instance_categories.values()))
    bounds, iou_bounds = intervals.find_intervals(counts, classes, absent=absent)
    iou = metrics.compute_class_scores(total)["IoU"].tolist()
    groups = list(dict.fromkeys(table.categories)) if all(table.categories) else []
    return MaskScores(
        scores=scores,
        intervals={name: bounds[name] for name in scores if name in bounds},
        class_iou=iou[:classes],
        class_intervals=iou_bounds[:classes],
        category_iou=dict(zip(groups, iou[classes:], strict=True)),
        category_intervals=dict(zip(groups, iou_bounds[classes:], strict=True)),
        columns=columns,
        counts=store.total,
        image_counts=counts,
        names=[dataset.names[index] for index in sorted(store.counts)],
        format=format,
        skipped=len(dataset) - len(store.counts),
    )
