"""What an evaluation leaves: its result as files and as text, and what was predicted as pictures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segkit import files, metrics, pictures
from segkit.data.labels import LabelTable
from segkit.inference import Evaluation
from segkit.monitor import class_table, environment
from segkit.report import Gallery
from segkit.tables import percent
from segkit.types import Sample

KINDS = {"ids": ".png", "colours": ".png", "overlays": ".jpg", "probabilities": ".npz"}
LEGEND_WIDTH = 1000  # pixels; a wider picture has its legend enlarged, so that it can be read beside it


def folder(settings: dict[str, Any], name: str) -> Path:
    """Where a command writes: ``output``, or a folder of this name beside the checkpoint or in ``runs/``."""
    if settings["output"] is not None:
        return Path(settings["output"]).expanduser()
    if settings["checkpoint"] is not None:
        return Path(settings["checkpoint"]).expanduser().parent / name
    return Path("runs", Path(settings["model"]["weights"]).stem, name)


def file_of(folder: Path, kind: str, name: str) -> Path:
    """Where one kind of picture of one name is kept."""
    return folder / kind / f"{name}{KINDS[kind]}"


def keeper(
    folder: Path, table: LabelTable, *, kinds: Collection[str], gallery: Gallery | None
) -> Callable[[Sample, np.ndarray], None]:
    """What ``evaluate`` is to call with each picture: saves the kinds, and shows it to the gallery."""

    def keep(sample: Sample, ids: np.ndarray) -> None:
        save(folder, sample.name, sample.image, ids, table, kinds=kinds)
        if gallery is not None:
            gallery.add(sample, ids)

    return keep


def save(
    folder: Path,
    name: str,
    image: np.ndarray,
    ids: np.ndarray,
    table: LabelTable,
    *,
    kinds: Collection[str],
    probabilities: np.ndarray | None = None,
) -> None:
    """Write what was predicted for one picture, each file whole or not at all.

    Args:
        folder: of the results; each kind has a folder in it.
        name: of the picture, with folders.
        image: (H, W, 3) uint8 RGB.
        ids: (H, W) class ids.
        table: of the classes.
        kinds: ``ids`` as the data set's masks have them, ``colours``, ``overlays`` with a legend,
            ``probabilities``.
        probabilities: (K, H, W), for ``probabilities``.
    """
    assert ids.shape == image.shape[:2], (name, ids.shape, image.shape)
    if "ids" in kinds:
        pictures.save(file_of(folder, "ids", name), table.decode(ids))
    if "colours" in kinds:
        pictures.save(file_of(folder, "colours", name), pictures.colourise(ids, table.colours))
    if "overlays" in kinds:
        pictures.save(file_of(folder, "overlays", name), with_legend(image, ids, table))
    if "probabilities" in kinds:
        assert probabilities is not None
        target = file_of(folder, "probabilities", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(target) as file:
            np.savez_compressed(file, probabilities=probabilities.astype(np.float16), names=table.names)


def with_legend(image: np.ndarray, ids: np.ndarray, table: LabelTable) -> np.ndarray:
    """The picture with its classes painted over it, and below it the names of those that occur."""
    present = np.unique(ids)
    names = [table.names[k] for k in present]
    width = image.shape[1]
    times = max(1, round(width / LEGEND_WIDTH))
    legend = pictures.legend(names, table.colours[present], width=width // times)
    if times > 1:
        legend = cv2.resize(legend, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
    return pictures.stack(pictures.overlay(image, ids, table.colours), legend)


def write(folder: Path, found: Evaluation, table: LabelTable, about: dict[str, Any]) -> None:
    """Write ``result.json``, ``classes.csv`` and ``confusion.csv``.

    Args:
        folder: made if it is not there.
        found: by the evaluation.
        table: of the classes.
        about: what else has to stand in ``result.json``: data, weights, settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "protocol": found.protocol.stated(),
        "scores": found.scores,
        "class_iou": dict(zip(table.names, found.class_iou, strict=True)),
        "category_iou": found.category_iou,
        "seconds": found.seconds,
        **about,
        "versions": environment(),
    }
    _write_text(folder / "result.json", json.dumps(_numbers(result), indent=1, ensure_ascii=False))
    each = {name: column.tolist() for name, column in metrics.class_scores(found.counts).items()}
    if found.boundary_iou:
        each["boundary IoU"] = found.boundary_iou
    labelled, predicted = found.counts.sum(1).tolist(), found.counts.sum(0).tolist()
    heads = ["class", "id", "name", *each, "labelled pixels", "predicted pixels"]
    ids = [entry.id for entry in table.classes]
    rows = zip(range(table.num_classes), ids, table.names, *each.values(), labelled, predicted, strict=True)
    _write_csv(folder / "classes.csv", heads, rows)
    rows = ([name, *line] for name, line in zip(table.names, found.counts.tolist(), strict=True))
    _write_csv(folder / "confusion.csv", ["truth \\ prediction", *table.names], rows)


def summary(found: Evaluation, table: LabelTable) -> str:
    """Scores and classes as text, in percent, under the name of their protocol."""
    columns = metrics.class_scores(found.counts)
    shown = {name: columns[name].tolist() for name in ("IoU", "recall", "precision")}
    if found.boundary_iou:
        shown["boundary"] = found.boundary_iou
    scores = "  ".join(f"{name} {percent(value)}" for name, value in found.scores.items())
    return f"{class_table(table.names, shown)}\n\n{found.protocol}\nin %: {scores}"


def _write_csv(path: Path, heads: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([["" if value != value else value for value in row] for row in rows])
    _write_text(path, text.getvalue())


def _write_text(path: Path, text: str) -> None:
    with files.whole(path) as file:
        file.write(text.encode())


def _numbers(value: Any) -> Any:
    """The same with null for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
