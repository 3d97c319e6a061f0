"""Results of an evaluation: output folders, result files, and the printed summary."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkit.data.label_map import LabelMap
from segkit.evaluation import Evaluation, metrics
from segkit.inference import Protocol, presets
from segkit.inference.outputs import save_prediction
from segkit.monitor.versions import describe_environment
from segkit.runtime import files, model_file
from segkit.runtime.text import format_count
from segkit.types import Sample
from segkit.visualize.overlays import to_display_rgb
from segkit.visualize.tables import format_bounds, format_class_table, format_percent

DATA_KEYS = ("name", "root", "val_split")  # settings of the data that name a result folder
LOADING_KEYS = {"cache", "on_error"}  # settings of the data that change no score
DEFAULT_FILES = ("best.pt", model_file.NAME)  # checkpoints that the result folder does not name


def choose_output_folder(settings: dict[str, Any], name: str) -> Path:
    """Return ``output``, or a folder of this name beside the checkpoint or in ``runs/``."""
    if settings["output"] is not None:
        return Path(settings["output"])
    if settings["checkpoint"] is not None:
        return model_file.output_folder_for(settings["checkpoint"]) / name
    if settings.get("predictions") is not None:
        return Path("runs", Path(settings["predictions"]).name, name)
    return Path("runs", Path(settings["model"]["weights"]).stem, name)


def name_test_folder(settings: Mapping[str, Any], trained_on: Mapping[str, Any]) -> str:
    """Return the name of a result folder: checkpoint, protocol, data and split, as far as not the default."""
    data = settings["data"]
    parts = ["test"]
    checkpoint = str(settings["checkpoint"] or "best.pt")
    file = Path(checkpoint)
    if file.suffix and file.name not in DEFAULT_FILES and "://" not in checkpoint:
        parts.append(file.name.removesuffix(".pt"))
    is_masks = settings.get("predictions") is not None
    parts.append("masks" if is_masks else presets.protocol_title(settings))
    if not trained_on or any(data.get(key) != trained_on.get(key) for key in DATA_KEYS):
        parts += [data["name"], str(data.get("val_split", "val"))]
    return re.sub(r"[^\w.=-]+", "-", "-".join(parts))


def make_output_folder(
    settings: dict[str, Any], trained_on: Mapping[str, Any], protocol: Protocol, weights_sha256: str
) -> Path:
    """Make a folder that has no result of other weights, data or protocol.

    Without ``output=``, this is the first such folder of ``NAME``, ``NAME-2``, ...

    Raises:
        ValueError: ``output=`` has another result, which would be overwritten.
        OSError: the folder cannot be written.
    """
    name = name_test_folder(settings, trained_on)
    folder = choose_output_folder(settings, name)
    identity = (weights_sha256, protocol.as_dict(), dict(settings["data"]))
    for number in itertools.count(2):
        other_result = _describe_other_result(folder, *identity)
        if not other_result:
            files.make_output_folder(folder)
            return folder
        if settings["output"] is not None:
            raise ValueError(f"output={folder}: has {other_result}. Choose another output=..., or remove it")
        folder = folder.with_name(f"{name}-{number}")
    raise AssertionError


def _describe_other_result(folder: Path, *identity: Any) -> str:
    """Describe the result in a folder if it is of other weights, protocol or data; empty otherwise."""
    try:
        stored = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        found = [stored["weights_sha256"], dict(stored["protocol"]), dict(stored["settings"]["data"])]
        description = f"the result of {found[1]['name']} on {describe_data({'data': found[2]})}"
    except OSError:
        return ""
    except (ValueError, KeyError, TypeError):
        return "a result.json that is damaged or was not written by segkit"
    given = json.loads(json.dumps(files.to_json_values(identity)))
    for data in (found[2], given[2]):
        for key in LOADING_KEYS:
            data.pop(key, None)
    if given == found:
        return ""
    names = ("weights", "protocol", "data")
    different = [name for name, value, old in zip(names, given, found, strict=True) if value != old]
    return f"{description}, with different {' and '.join(different)}"


def describe_data(settings: Mapping[str, Any]) -> str:
    """Return data set and split as text."""
    data = settings["data"]
    return f"{data['name']}, split {data.get('val_split', 'val')}"


def make_image_callback(
    folder: Path, table: LabelMap, *, kinds: Collection[str]
) -> Callable[[Sample, np.ndarray], None]:
    """Return a callback for ``evaluate`` that saves predictions."""

    def save_image(sample: Sample, ids: np.ndarray) -> None:
        rgb = to_display_rgb(sample.image, sample.bands)
        save_prediction(folder, sample.name, rgb, ids, table, kinds=kinds)

    return save_image


def write_results(
    folder: Path,
    evaluation: Evaluation,
    table: LabelMap,
    metadata: dict[str, Any],
    *,
    predictions: Sequence[Path] = (),
    predictions_format: str = "raw",
) -> None:
    """Write ``result.json``, ``classes.csv``, ``confusion.csv`` and ``image_counts.npz``.

    Args:
        folder: created if missing.
        evaluation: the result.
        table: of the classes.
        metadata: further entries of ``result.json``: weights and settings.
        predictions: N files of predicted masks; none if they are in ``ids/`` of the folder, or nowhere.
        predictions_format: of these files, as of ``masks.score_masks``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "protocol": evaluation.protocol.as_dict(),
        "scores": evaluation.scores,
        "intervals": evaluation.intervals,
        "class_iou": dict(zip(table.names, evaluation.class_iou, strict=True)),
        "category_iou": evaluation.category_iou,
        "images": evaluation.images,
        "skipped": evaluation.skipped,
        "seconds": evaluation.seconds,
        **metadata,
        "versions": describe_environment(),
    }
    files.write_json(folder / "result.json", result)
    class_scores = metrics.compute_class_scores(metrics.count_pixels(evaluation.counts))
    columns = {name: values.tolist() for name, values in class_scores.items()}
    columns |= evaluation.classes
    columns["labeled pixels"] = evaluation.counts.sum(1).tolist()
    columns["predicted pixels"] = evaluation.counts.sum(0)[: table.num_classes].tolist()
    ids = [entry.id for entry in table.classes]
    rows = zip(range(table.num_classes), ids, table.names, *columns.values(), strict=True)
    _write_csv(folder / "classes.csv", ["class", "id", "name", *columns], rows)
    rows = ([name, *counts] for name, counts in zip(table.names, evaluation.counts.tolist(), strict=True))
    no_class = ["no class"] * (evaluation.counts.shape[1] - table.num_classes)
    _write_csv(folder / "confusion.csv", ["label \\ prediction", *table.names, *no_class], rows)
    if evaluation.image_counts is None:
        return
    with files.atomic_write(folder / "image_counts.npz") as file:  # to compare results on the same images
        np.savez_compressed(
            file,
            names=np.array(list(evaluation.names)),
            counts=evaluation.image_counts,
            predictions=np.array([str(path.absolute()) for path in predictions]),
            format=np.array(predictions_format),
        )


def format_summary(evaluation: Evaluation, table: LabelMap, *, data: str) -> str:
    """Return a table of classes and the scores as text, in percent."""
    columns = {name: column for name, column in evaluation.class_table().items() if name != "pixels"}
    columns |= {name: column for name, column in evaluation.classes.items() if name not in columns}
    scores = []
    for name, value in evaluation.scores.items():
        bounds = format_bounds(evaluation.intervals.get(name))
        scores.append(f"{name} {format_percent(value)}" + (f" ({bounds})" if bounds else ""))
    note = "see docs/using.md for their definitions"
    if evaluation.intervals:
        note += ", docs/scoring.md for the 95 % intervals"
    images = format_count(evaluation.images, "image")
    if evaluation.skipped:
        images += f", {evaluation.skipped} unreadable and skipped"
    return (
        f"{format_class_table(table.names, columns)}\n\n{data}: {images}\n{evaluation.protocol}\n"
        f"in %: {'  '.join(scores)}\n({note})"
    )


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([["" if value != value else value for value in row] for row in rows])
    files.write_text(path, text.getvalue())
