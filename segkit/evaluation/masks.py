"""Scores of masks that any tool has predicted, against a data set.

Predictions are matched to images by name, read exactly and never resized.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from segkit.data.label_map import DataError, Entry, LabelMap, Problem
from segkit.data.listing import walk_files
from segkit.data.pairs import Pairs
from segkit.data.reading import MASK_SUFFIXES, read_mask
from segkit.evaluation import scoring
from segkit.evaluation.counts import Counts
from segkit.evaluation.evaluators.confusion import ConfusionScores
from segkit.evaluation.instance_iou import (
    InstanceIoU,
    find_instance_file,
    measure_instances,
)
from segkit.evaluation.metrics import Absent
from segkit.evaluation.scoring import Evaluation
from segkit.types import ignore_index

Format = Literal["ids", "raw", "colors"]
FORMATS: dict[Format, str] = {
    "ids": "class ids 0..K-1, such as Cityscapes' train ids",
    "raw": "ids of the data set's own masks",
    "colors": "colors of the class table",
}
ENDINGS = ("_gtFine_labelTrainIds", "_gtFine_labelIds", "_gtFine_color", "_leftImg8bit", "_labelTrainIds")
ENDINGS += ("_labelIds", "_predictions", "_prediction", "_pred", "_mask", "_ids", "_colors", "_color")
SAMPLED = 16  # predictions that are read to detect the format
LISTED = 20  # problems in an error message
AHEAD = 64  # images that are read while they are counted


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

    def decode(self, stored: np.ndarray, file: Path) -> np.ndarray:
        """Return the class ids (H, W) of a prediction as stored; ``ignore_index`` where it is no class.

        Raises:
            DataError: the prediction holds values that the format does not have.
        """
        others = " or ".join(name for name in FORMATS if name != self.format)
        if (self.format == "colors") != (stored.ndim == 3):
            text = f"has {stored.ndim} dimensions, and its values are not {FORMATS[self.format]}"
            raise DataError("format", file, text, f"set predictions_format={others}")
        try:
            return self.palette.encode(stored, file)
        except DataError as error:
            text = f"{error.problem.text}: they are not {FORMATS[self.format]}"
            remedy = f"set predictions_format={others}, or correct it"
            raise DataError("values out of range", file, text, remedy) from error


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
            format cannot be detected; the data set has no files; or nothing is scored.
    """
    found = PredictedMasks(Path(predictions).expanduser(), dataset, format=format, on_error=on_error)
    return found.score(MaskProtocol(found.format, absent, dict(evaluators)), partial=partial)


class PredictedMasks:
    """Predictions in a folder that belong to images of a data set.

    Arguments and errors are those of ``score_masks``.

    Attributes:
        files: predictions by index of the image.
        problems: files and images without a partner, and unusable predictions.
    """

    def __init__(
        self,
        folder: Path,
        dataset: Pairs,
        *,
        format: Format | Literal["auto"],
        on_error: Literal["stop", "skip"],
    ) -> None:
        if not isinstance(dataset, Pairs):
            raise ValueError(f"data.name={dataset.name}: has no files that predictions could be named after")
        self.dataset: Any = dataset  # its table is a ``ClassTable``, which the type checker does not see
        self.folder, self.on_error = folder, on_error
        self.files, self.problems = match_predictions(folder, dataset)
        self._refuse_problems()
        if not self.files:
            raise ValueError(f"{folder}: no file is named after an image of {dataset.name}")
        self.format: Format = detect_format(self.files, dataset) if format == "auto" else format
        self.decoder = Decoder(dataset.table, self.format)

    def score(
        self, protocol: MaskProtocol, *, partial: Path | None = None, progress: bool = False
    ) -> Evaluation:
        """Return the scores; arguments and errors are those of ``score_masks``."""
        table, any_protocol = self.dataset.table, cast("Any", protocol)
        evaluators = scoring.build_evaluators(table, any_protocol, torch.device("cpu"))
        confusion = ConfusionScores(table, protocol.absent, "cpu", allow_no_class=True)
        instances = InstanceIoU(table, confusion)
        evaluators["confusion"] = confusion
        if any(find_instance_file(pair.label) for pair in self.dataset.pairs):
            evaluators["instances"] = instances

        def read_images(indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray, Tensor]]:
            matched = [index for index in indices if index in self.files]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for start in range(0, len(matched), AHEAD):  # so that memory stays flat
                    chunk = matched[start : start + AHEAD]
                    for index, result in zip(chunk, pool.map(self._read_pair, chunk), strict=True):
                        if isinstance(result, Problem):
                            self.problems.append(result)
                            continue
                        label, ids, instances.objects = result
                        yield index, label, torch.from_numpy(ids)
            self._refuse_problems()

        counts = Counts(
            evaluators,
            table,
            num_images=len(self.dataset),
            folder=partial,
            fingerprint=scoring.hash_values(self.hash_files(), dict(protocol.evaluators)),
            resume=True,
        )
        return scoring.score_predictions(read_images, self.dataset, any_protocol, counts, progress=progress)

    def read(self, index: int) -> np.ndarray:
        """Return the class ids (H, W) of a prediction."""
        return self.decoder.decode(read_mask(self.files[index], "any"), self.files[index])

    def hash_files(self) -> str:
        """Return a hash of what the counts depend on: labels, predictions, class table and format."""
        stats = [
            [str(file), file.stat().st_size, file.stat().st_mtime_ns]
            for index, prediction in self.files.items()
            for file in (self.dataset.pairs[index].label, prediction)
        ]
        return scoring.hash_values(stats, self.dataset.table.to_plain(), self.format)

    def _read_pair(self, index: int) -> tuple[np.ndarray, np.ndarray, Any] | Problem:
        """Return label and prediction (H, W) of an image, and its objects if there is a file of them."""
        try:
            label, ids = self.dataset.read_label(index), self.read(index)
            if ids.shape != label.shape:
                text = f"is {ids.shape[1]}x{ids.shape[0]} pixels, its label {label.shape[1]}x{label.shape[0]}"
                remedy = "predict at the size of the label; masks are not resized"
                raise DataError("size", self.files[index], text, remedy)
            file = find_instance_file(self.dataset.pairs[index].label)
            objects = measure_instances(file, ids, self.dataset.table) if file else None
        except DataError as error:
            return error.problem
        return label, ids, objects

    def _refuse_problems(self) -> None:
        """List the problems in an error, unless they are skipped."""
        if not self.problems or self.on_error == "skip":
            return
        kinds = Counter(problem.kind for problem in self.problems)
        summary = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
        lines = [f"{self.folder}: {summary}. data.on_error=skip leaves these images out."]
        lines += map(str, self.problems[:LISTED])
        if len(self.problems) > LISTED:
            lines.append(f"... and {len(self.problems) - LISTED} more")
        raise ValueError("\n".join(lines))


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
            text = f"belongs to {len(owner) or 'no'} images of {dataset.name}"
            remedy = "name it after one image, with its folder, or remove it"
            problems.append(Problem("extra prediction", str(file), text, remedy))
    for index, pair in enumerate(dataset.pairs):
        several = found.get(index, [])
        if not several:
            text = f"has no prediction: expected {pair.name}.png"
            problems.append(Problem("missing prediction", str(pair.image), text))
        elif len(several) > 1:
            text = f"has {len(several)} predictions: {', '.join(str(file) for file in several[:3])}"
            problems.append(Problem("several predictions", str(pair.image), text, "keep one"))
    return {index: several[0] for index, several in sorted(found.items()) if len(several) == 1}, problems


def detect_format(files: Mapping[int, Path], dataset: Pairs) -> Format:
    """Return the format of predictions, from a sample of them.

    Three channels are colors. Of the others, the format that has all stored values is taken; if both have,
    the one that agrees with the labels on more than twice as many pixels, or any if they mean the same.

    Raises:
        ValueError: no format fits, or both do and the labels do not decide.
    """
    sample: list[tuple[np.ndarray, np.ndarray]] = []  # label, prediction
    for index in list(files)[:: max(1, len(files) // SAMPLED)]:
        with contextlib.suppress(DataError):  # reported when it is scored
            sample.append((dataset.read_label(index), read_mask(files[index], "any")))
    if any(stored.ndim == 3 for _, stored in sample):
        return "colors"
    decoded: dict[Format, list[np.ndarray]] = {}
    agreement: dict[Format, int] = {}  # pixels
    ignored = ignore_index(dataset.table.num_classes)
    formats: tuple[Format, ...] = ("ids", "raw")
    for format in formats:
        decoder = Decoder(dataset.table, format)
        with contextlib.suppress(DataError):
            decoded[format] = [decoder.decode(stored, Path()) for _, stored in sample]
            agreement[format] = sum(
                int(((ids == label) & (label != ignored)).sum())
                for ids, (label, _) in zip(decoded[format], sample, strict=True)
                if ids.shape == label.shape
            )
    if agreement:
        best = max(agreement, key=agreement.__getitem__)
        first, *others = decoded.values()
        are_equal = all((a == b).all() for other in others for a, b in zip(first, other, strict=True))
        if are_equal or agreement[best] > 2 * min(agreement.values()):
            return best
    values = sorted({value for _, stored in sample for value in np.unique(stored).tolist()})
    raise ValueError(
        f"predictions hold the values {', '.join(map(str, values[:12]))}: "
        f"{'two formats fit' if agreement else 'no format fits'} ({FORMATS['ids']}; {FORMATS['raw']}). "
        "Set predictions_format=ids, raw or colors"
    )


def _remove_ending(name: str) -> str:
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)
