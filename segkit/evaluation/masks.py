"""Scores of masks that any tool has predicted, against a data set.

Predictions are matched to images by name, read exactly and never resized.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar, cast

import numpy as np
import torch
from tqdm import tqdm

from segkit.config import registry
from segkit.data.label_map import DataError, Entry, LabelMap, Problem
from segkit.data.listing import walk_files
from segkit.data.pairs import Pairs
from segkit.data.reading import MASK_SUFFIXES, read_mask
from segkit.evaluation.evaluators.confusion import ConfusionScores
from segkit.evaluation.instance_iou import (
    InstancePixels,
    InstanceSums,
    add_instance_iou,
    find_instance_file,
    measure_instances,
)
from segkit.evaluation.intervals import ImageCounts
from segkit.evaluation.metrics import Absent
from segkit.evaluation.partial import EvaluatorCounts
from segkit.evaluation.scoring import Evaluation, add_intervals, add_scores
from segkit.types import Evaluator, ignore_index

T = TypeVar("T")
Format = Literal["ids", "raw", "colors"]
FORMATS = {
    "ids": "class ids 0..K-1, such as Cityscapes' train ids",
    "raw": "ids of the data set's own masks",
    "colors": "colors of the class table",
}
ENDINGS = ("_gtFine_labelTrainIds", "_gtFine_labelIds", "_gtFine_color", "_leftImg8bit", "_labelTrainIds")
ENDINGS += ("_labelIds", "_predictions", "_prediction", "_pred", "_mask", "_ids", "_colors", "_color")
SAMPLED = 16  # predictions that are read to detect the format
LISTED = 20  # problems in an error message
AHEAD = 32  # images that may be read ahead of the one that is counted


@dataclass(frozen=True)
class MaskProtocol:
    """Settings that decide the scores of predicted masks; takes the place of an evaluation protocol."""

    format: Format
    absent: Absent = "exclude"
    evaluators: Mapping[str, Any] = field(default_factory=dict)
    name: str = "masks"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python."""
        return asdict(self)

    def __str__(self) -> str:
        return f"predicted masks: {FORMATS[self.format]}; classes without pixels: {self.absent}"


class Predictions(NamedTuple):
    """Predictions that belong to images of a data set."""

    folder: Path
    files: dict[int, Path]  # by index of the image
    problems: list[Problem]  # files and images without a partner
    format: Format


class Decoder:
    """Class ids of stored predictions."""

    def __init__(self, table: LabelMap, format: Format) -> None:
        self.format: Format = format
        self.palette = table
        if format == "colors":
            taken = {entry.color for entry in table.classes}  # Cityscapes' polegroup has the color of pole
            ignored = [entry for entry in table.entries if entry.ignore and entry.color not in taken]
            self.palette = replace(table, entries=(*table.classes, *ignored))
        if format == "ids":
            entries = [entry._replace(id=index) for index, entry in enumerate(table.classes)]
            no_class = Entry(ignore_index(table.num_classes), "no class", (0, 0, 0), ignore=True)
            self.palette = replace(table, entries=(*entries, no_class))
        self.class_values = {entry.id for entry in self.palette.classes}
        self.values = {entry.id for entry in self.palette.entries}

    def decode(self, stored: np.ndarray, file: Path) -> np.ndarray:
        """Return the class ids (H, W) of a prediction as stored; ``ignore_index`` where it is no class.

        Raises:
            DataError: the prediction holds values that the format does not have.
        """
        if self.format == "colors" and stored.ndim != 3:
            text = "has one channel, not the colors of the class table"
            raise DataError("format", file, text, "set predictions_format=ids or raw")
        if self.format != "colors" and stored.ndim == 3:
            text = "has three channels, not one id per pixel"
            raise DataError("format", file, text, "set predictions_format=colors")
        try:
            return self.palette.encode(stored, file)
        except DataError:
            if self.format == "colors":
                raise
        unknown = sorted(set(np.unique(stored).tolist()) - self.values)
        more = " and more" if len(unknown) > 8 else ""
        text = f"holds {', '.join(map(str, unknown[:8]))}{more}, which {FORMATS[self.format]} do not have"
        others = " or ".join(name for name in FORMATS if name != self.format)
        raise DataError("values out of range", file, text, f"set predictions_format={others}, or correct it")


def score_masks(
    predictions: str | Path,
    dataset: Pairs,
    *,
    format: Format | Literal["auto"] = "auto",
    absent: Absent = "exclude",
    evaluators: Mapping[str, Any] = MappingProxyType({}),
    on_error: Literal["stop", "skip"] = "stop",
    partial: Path | None = None,
) -> Evaluation:
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
        partial: folder for the counts of an interrupted call, which the next call continues.

    Raises:
        ValueError: predictions are missing, match no image, have another size or hold other values; the
            format cannot be detected; or nothing is scored.
    """
    found = find_predictions(Path(predictions).expanduser(), dataset, format=format, on_error=on_error)
    protocol = MaskProtocol(found.format, absent, dict(evaluators))
    return score_predictions(found, dataset, protocol, on_error=on_error, partial=partial)


def find_predictions(
    folder: Path, dataset: Pairs, *, format: Format | Literal["auto"], on_error: Literal["stop", "skip"]
) -> Predictions:
    """Return the predictions in a folder; arguments and errors are those of ``score_masks``."""
    matched, problems = match_predictions(folder, dataset)
    if problems and on_error == "stop":
        raise ValueError(list_problems(problems, folder))
    if not matched:
        raise ValueError(f"{folder}: no file is named after an image of {dataset.name}")
    if format == "auto":
        format = detect_format(matched, dataset)
    return Predictions(folder, matched, problems, format)


def score_predictions(
    predictions: Predictions,
    dataset: Pairs,
    protocol: MaskProtocol,
    *,
    on_error: Literal["stop", "skip"] = "stop",
    partial: Path | None = None,
    progress: bool = False,
) -> Evaluation:
    """Score predictions that were found; arguments and errors are those of ``score_masks``."""
    table, problems = dataset.table, list(predictions.problems)
    confusion = ConfusionScores(cast("Any", table), protocol.absent, "cpu", allow_no_class=True)
    evaluators: dict[str, Evaluator] = {"confusion": confusion}
    supplied = {"table": table, "absent": protocol.absent, "device": "cpu"}
    evaluators |= registry.build_enabled("evaluation.evaluators", protocol.evaluators, **supplied)
    image_counts = ImageCounts(evaluators, len(dataset), table.categories)
    instances = InstanceSums(table.num_classes)
    accumulators = evaluators | {"instances": instances, "image_counts": image_counts}
    fingerprint = fingerprint_predictions(predictions, dataset, protocol.evaluators)
    folder = partial / fingerprint if partial else None  # counts of changed files are in another one
    counts = EvaluatorCounts(accumulators, folder, fingerprint, num_images=len(dataset), resume=True)
    pending = [index for index in predictions.files if index not in counts.done]
    read = functools.partial(_read_pair, predictions, dataset, Decoder(table, predictions.format))
    is_disabled = None if progress else True  # None: without a terminal
    with ThreadPoolExecutor(os.cpu_count()) as pool, counts:
        results = zip(pending, _map_bounded(pool, read, pending), strict=True)
        for index, result in tqdm(results, "scoring", len(pending), unit="image", disable=is_disabled):
            if isinstance(result, Problem):
                problems.append(result)
                continue
            label, ids, instances.objects = result
            image_counts.index = index
            counts.add(index, label, torch.from_numpy(ids))
    if problems and on_error == "stop":
        raise ValueError(list_problems(problems, predictions.folder))
    counted = sorted(counts.done.union(counts.images))
    states = counts.sum_states()
    if partial:
        shutil.rmtree(partial, ignore_errors=True)
    if not states["confusion"].any():
        raise ValueError("there is nothing to score: no prediction is usable, or every label is ignored")
    result = Evaluation(
        counts=states["confusion"],
        scores={},
        protocol=cast("Any", protocol),
        seconds=0.0,
        names=[dataset.names[index] for index in counted],
        skipped=len(dataset) - len(counted),
    )
    result = add_scores(result, states, evaluators)
    if states["instances"].any():
        result = add_instance_iou(result, states["instances"].numpy(), table)
    return add_intervals(result, image_counts, states["image_counts"][counted])


def _read_pair(
    predictions: Predictions, dataset: Pairs, decoder: Decoder, index: int
) -> tuple[np.ndarray, np.ndarray, list[InstancePixels]] | Problem:
    """Return label and prediction (H, W) of an image, and its objects if there is a file of them."""
    file = predictions.files[index]
    try:
        label, stored = dataset.read_label(index), read_mask(file, "any")
        if stored.shape[:2] != label.shape:
            (rows, columns), (height, width) = stored.shape[:2], label.shape
            text = f"is {columns}x{rows} pixels, its label {width}x{height}"
            raise DataError("size", file, text, "predict at the size of the label; masks are not resized")
        ids = decoder.decode(stored, file)
        instance_file = find_instance_file(dataset.pairs[index].label)
        objects = measure_instances(instance_file, ids, dataset.table) if instance_file else []
    except DataError as error:
        return error.problem
    return label, ids, objects


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

    Raises:
        ValueError: no format fits, or both do and the labels do not decide.
    """
    indices = list(predictions)[:: max(1, len(predictions) // SAMPLED)]
    with ThreadPoolExecutor() as pool:
        masks = list(pool.map(_read_if_usable, [predictions[index] for index in indices]))
    sample = {index: stored for index, stored in zip(indices, masks, strict=True) if stored is not None}
    if any(stored.ndim == 3 for stored in sample.values()):
        return "colors"
    values = {value for stored in sample.values() for value in np.unique(stored).tolist()}
    decoders = [Decoder(dataset.table, "ids"), Decoder(dataset.table, "raw")]
    fitting = [decoder for decoder in decoders if values <= decoder.class_values]
    if not fitting:
        fitting = [decoder for decoder in decoders if values <= decoder.values]
    if len(fitting) == 1:
        return fitting[0].format
    if fitting:
        agreement = [_count_agreement(decoder, sample, dataset) for decoder in fitting]
        distinct = np.array(list(values))
        first, second = (decoder.palette.encode(distinct, "") for decoder in fitting)
        if max(agreement) > 2 * min(agreement) or (first == second).all():
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
            ids = decoder.palette.encode(stored, "")
            total += int(((ids == label) & (label != ignore_index(dataset.table.num_classes))).sum())
    return total


def _read_if_usable(file: Path) -> np.ndarray | None:
    try:
        return read_mask(file, "any")
    except DataError:
        return None  # reported when it is scored


def _remove_ending(name: str) -> str:
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)


def _map_bounded(pool: ThreadPoolExecutor, function: Callable[[int], T], items: Sequence[int]) -> Iterator[T]:
    """Yield results in order; a bounded number is computed ahead, so that memory stays flat."""
    waiting: deque[Future[T]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def fingerprint_predictions(predictions: Predictions, dataset: Pairs, evaluators: Mapping[str, Any]) -> str:
    """Return a hash of what the counts depend on: labels, predictions, class table, format, evaluators."""
    stats = [
        [str(file), file.stat().st_size, file.stat().st_mtime_ns]
        for index, prediction in predictions.files.items()
        for file in (dataset.pairs[index].label, prediction)
    ]
    content = json.dumps([stats, dataset.table.to_plain(), predictions.format, dict(evaluators)])
    return hashlib.sha256(content.encode()).hexdigest()


def list_problems(problems: Sequence[Problem], folder: Path) -> str:
    """Return the message for predictions that cannot be used: a count of each kind, and the first ones."""
    lines = [str(problem) for problem in problems[:LISTED]]
    if len(problems) > LISTED:
        lines.append(f"... and {len(problems) - LISTED} more")
    kinds = {problem.kind for problem in problems}
    summary = ", ".join(f"{sum(p.kind == kind for p in problems)} x {kind}" for kind in sorted(kinds))
    return "\n".join([f"{folder}: {summary}. data.on_error=skip leaves these images out.", *lines])
