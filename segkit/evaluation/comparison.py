"""Compare two results on the same images: paired bootstrap of the differences of their scores.

Both results are resampled with the same images, so that what makes an image hard for both cancels out. A
difference whose interval contains zero is not distinguishable from none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from segkit.config import registry
from segkit.data.label_map import LabelMap
from segkit.data.reading import read_mask
from segkit.evaluation import intervals, metrics
from segkit.evaluation.intervals import Interval
from segkit.evaluation.masks import Decoder, Format
from segkit.evaluation.metrics import Absent
from segkit.visualize import overlays

FILE = "image_counts.npz"
LISTED, DRAWN = 10, 6  # images that changed most


class StoredResult(NamedTuple):
    """Counts of a result folder."""

    folder: Path
    names: list[str]  # N, of the images
    counts: np.ndarray  # (N, 3, K + C), ``metrics.count_pixels`` of each image
    classes: list[str]  # K
    absent: Absent
    data: Mapping[str, Any] = MappingProxyType({})  # settings of the data set
    predictions: Sequence[str] = ()  # N files of masks, or none
    format: Format = "raw"  # of the masks


class Difference(NamedTuple):
    """A score of two results, fractions of 1."""

    name: str
    first: float
    second: float
    interval: Interval  # of second - first

    @property
    def is_distinguishable(self) -> bool:
        """Return whether the interval of the difference does not contain zero."""
        return self.interval.low > 0 or self.interval.high < 0


class Comparison(NamedTuple):
    """Differences of two results on the same images."""

    scores: list[Difference]
    classes: list[Difference]  # IoU
    images: list[tuple[str, float]]  # name and difference of the mean IoU, largest change first


def read_result(folder: Path) -> StoredResult:
    """Read a result folder of ``test_seg.py``.

    Raises:
        ValueError: it is not one, or its files are damaged.
    """
    try:
        about: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        with np.load(folder / FILE) as stored:
            return StoredResult(
                folder,
                stored["names"].tolist(),
                stored["counts"],
                list(about["class_iou"]),
                about["protocol"]["absent"],
                about["settings"]["data"],
                stored["predictions"].tolist(),
                str(stored["format"]),  # pyright: ignore[reportArgumentType]
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder}: is not a result of test_seg.py that can be compared ({error})"
        ) from error


def compare_results(first: StoredResult, second: StoredResult) -> Comparison:
    """Return the differences of two results, second minus first, with their intervals.

    Raises:
        ValueError: their images, classes or rules for absent classes differ.
    """
    if first.classes != second.classes:
        raise ValueError(f"{second.folder}: its classes are not those of {first.folder}")
    if first.absent != second.absent:
        raise ValueError(
            f"{second.folder}: evaluation.absent={second.absent}, but {first.absent} in {first.folder}. "
            "Evaluate both with one rule"
        )
    missing = sorted(set(first.names) ^ set(second.names))
    if missing:
        shown = ", ".join(missing[:3])
        raise ValueError(
            f"{first.folder} and {second.folder} are not of the same images: "
            f"{len(missing)} are in one alone, such as {shown}"
        )
    order = [second.names.index(name) for name in first.names]
    pair = first.counts, second.counts[order]
    classes, images = len(first.classes), len(first.names)
    totals = [counts.sum(0)[:, :classes] for counts in pair]
    resampled = [intervals.resample_images(counts)[..., :classes] for counts in pair]
    values = [metrics.score_pixels(total, absent=first.absent) for total in totals]
    samples = [metrics.score_pixels(total, absent=first.absent) for total in resampled]
    scores = [
        Difference(
            name,
            float(values[0][name]),
            float(values[1][name]),
            intervals.find_bounds(samples[1][name] - samples[0][name], images),
        )
        for name in values[0]
    ]
    iou = [metrics.compute_class_scores(total)["IoU"] for total in totals]
    iou_samples = [metrics.compute_class_scores(total)["IoU"] for total in resampled]
    each = [
        Difference(
            name,
            float(iou[0][index]),
            float(iou[1][index]),
            intervals.find_bounds(iou_samples[1][:, index] - iou_samples[0][:, index], images),
        )
        for index, name in enumerate(first.classes)
    ]
    per_image = [metrics.score_pixels(c[..., :classes], absent="labels")["mIoU"] for c in pair]
    changes = np.nan_to_num(per_image[1] - per_image[0])
    largest = np.argsort(-np.abs(changes), kind="stable")
    return Comparison(scores, each, [(first.names[index], float(changes[index])) for index in largest])


def format_comparison(comparison: Comparison, first: str, second: str) -> str:
    """Return a comparison as text, in percent."""
    rows = [("", first, second, "difference", "95 % interval", "")]
    for difference in (*comparison.scores, *comparison.classes):
        if math.isnan(difference.first) and math.isnan(difference.second):
            continue
        low, high = (100 * bound for bound in difference.interval)
        rows.append(
            (
                difference.name,
                f"{100 * difference.first:.2f}",
                f"{100 * difference.second:.2f}",
                f"{100 * (difference.second - difference.first):+.2f}",
                f"{low:+.2f} to {high:+.2f}",
                "" if difference.is_distinguishable else "not distinguishable",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        right = "  ".join(cell.rjust(width) for cell, width in zip(cells[:-1], widths[1:-1], strict=True))
        lines.append(f"{name.ljust(widths[0])}  {right}  {cells[-1]}".rstrip())
    changed = [f"  {100 * change:+7.2f}  {name}" for name, change in comparison.images[:LISTED] if change]
    if changed:
        lines += ["", "images whose mean IoU changed most, in points:", *changed]
    return "\n".join(lines)


def draw_changed_images(comparison: Comparison, first: StoredResult, second: StoredResult) -> np.ndarray:
    """Return a picture (H, W, 3) of the images that changed most: image, label and both predictions.

    Raises:
        ValueError: the predictions were not saved, or the data set cannot be read.
    """
    dataset = registry.build("data.datasets", second.data, split="val")
    index_of = {name: index for index, name in enumerate(dataset.names)}
    rows, shown = [], []
    for name, change in comparison.images[:DRAWN]:
        if not change:
            break
        sample = dataset.read(index_of[name])
        ids = [sample.label, *(_read_prediction(result, name, dataset.table) for result in (first, second))]
        painted = [overlays.colorize(each, dataset.table.colors) for each in ids]
        rows.append([overlays.to_display_rgb(sample.image, sample.bands), *painted])
        shown += ids
    if not rows:
        raise ValueError("no image changed, so there is nothing to draw")
    present = overlays.present_classes(shown)
    names = [dataset.table.names[index] for index in present]
    grid = overlays.draw_grid(rows, titles=("image", "label", "first", "second"))
    legend = overlays.draw_legend(names, dataset.table.colors[present], width=grid.shape[1])
    return overlays.stack_vertically(grid, legend)


def _read_prediction(result: StoredResult, name: str, table: LabelMap) -> np.ndarray:
    """Return the class ids of a prediction, ``ignore_index`` where it is no class."""
    file = result.folder / "ids" / f"{name}.png"
    if result.predictions:
        file = Path(result.predictions[result.names.index(name)])
    if not file.is_file():
        raise ValueError(f"{file}: there is no such prediction. Score again with save=[ids] to draw pictures")
    return Decoder(table, result.format).decode(read_mask(file, "any"), file)
