"""Compare two results on the same images: paired bootstrap of the differences of their scores.

Both results are resampled with the same images, so that what makes an image hard for both cancels out. A
difference whose interval contains zero is not distinguishable from none.
"""

from __future__ import annotations

import json
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
from segkit.visualize import overlays, tables

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
    for what in ("classes", "absent"):
        one, other = getattr(first, what), getattr(second, what)
        if one != other:
            raise ValueError(
                f"{first.folder} and {second.folder} cannot be compared: {what} {one} and {other}"
            )
    unpaired = sorted(set(first.names) ^ set(second.names))
    if unpaired:
        raise ValueError(
            f"{first.folder} and {second.folder} are not of the same images: "
            f"{len(unpaired)} are in one alone, such as {', '.join(unpaired[:3])}"
        )
    order = [second.names.index(name) for name in first.names]
    pair = [counts[..., : len(first.classes)] for counts in (first.counts, second.counts[order])]
    values = [_list_scores(counts.sum(0), first) for counts in pair]
    samples = [_list_scores(intervals.resample_images(counts), first) for counts in pair]
    differences = []
    for (name, one), (_, other), (_, one_sample), (_, other_sample) in zip(*values, *samples, strict=True):
        interval = intervals.find_bounds(other_sample - one_sample, len(order))
        differences.append(Difference(name, float(one), float(other), interval))
    per_image = [metrics.score_pixels(counts, absent="labels")["mIoU"] for counts in pair]
    changes = np.nan_to_num(per_image[1] - per_image[0])
    largest = np.argsort(-np.abs(changes), kind="stable")
    return Comparison(
        differences[: -len(first.classes)],
        differences[-len(first.classes) :],
        [(first.names[index], float(changes[index])) for index in largest],
    )


def _list_scores(pixels: np.ndarray, result: StoredResult) -> list[tuple[str, np.ndarray]]:
    """Return the scores of counts (..., 3, K), then the IoU of each class, each (...)."""
    iou = metrics.compute_class_scores(pixels)["IoU"]
    by_class = [(name, iou[..., index]) for index, name in enumerate(result.classes)]
    return [*metrics.score_pixels(pixels, absent=result.absent).items(), *by_class]


def format_comparison(comparison: Comparison, first: str, second: str) -> str:
    """Return a comparison as text, in percent."""
    rows: list[Sequence[str]] = [("", first, second, "difference", "95 % interval", "")]
    for difference in (*comparison.scores, *comparison.classes):
        name, *values = difference[:3]
        if np.isnan(values).all():
            continue
        low, high = (100 * bound for bound in difference.interval)
        note = "" if difference.is_distinguishable else "not distinguishable"
        change = f"{100 * (values[1] - values[0]):+.2f}"
        shown = [tables.format_percent(value) for value in values]
        rows.append((name, *shown, change, f"{low:+.2f} to {high:+.2f}", note))
    text = tables.align_columns(rows)
    changed = [f"  {100 * change:+7.2f}  {name}\n" for name, change in comparison.images[:LISTED] if change]
    if changed:
        text += "\nimages whose mean IoU changed most, in points:\n" + "".join(changed)
    return text


def draw_changed_images(comparison: Comparison, first: StoredResult, second: StoredResult) -> np.ndarray:
    """Return a picture (H, W, 3) of the images that changed most: image, label and both predictions.

    Raises:
        ValueError: the predictions were not saved, or the data set cannot be read.
    """
    dataset = registry.build("data.datasets", second.data, split="val")
    names, colors = dataset.table.names, dataset.table.colors
    index_of = {name: index for index, name in enumerate(dataset.names)}
    rows, shown = [], []
    for name in [name for name, change in comparison.images[:DRAWN] if change]:
        sample = dataset.read(index_of[name])
        ids = [sample.label, *(_read_prediction(result, name, dataset.table) for result in (first, second))]
        image = overlays.to_display_rgb(sample.image, sample.bands)
        rows.append([image, *(overlays.colorize(each, colors) for each in ids)])
        shown += ids
    if not rows:
        raise ValueError("no image changed, so there is nothing to draw")
    grid = overlays.draw_grid(rows, titles=("image", "label", "first", "second"))
    return overlays.add_legend(grid, shown, names, colors)


def _read_prediction(result: StoredResult, name: str, table: LabelMap) -> np.ndarray:
    """Return the class ids of a prediction, ``ignore_index`` where it is no class."""
    file = result.folder / "ids" / f"{name}.png"
    if result.predictions:
        file = Path(result.predictions[result.names.index(name)])
    if not file.is_file():
        raise ValueError(f"{file}: there is no such prediction. Score again with save=[ids] to draw pictures")
    return Decoder(table, result.format).decode(read_mask(file, "any"), file)
