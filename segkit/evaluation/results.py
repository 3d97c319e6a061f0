"""What an evaluation leaves: its result as files and as text, and what was predicted as images."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkit.data.label_map import LabelMap
from segkit.evaluation import Evaluation, metrics
from segkit.evaluation.gallery import Gallery
from segkit.evaluation.intervals import Interval
from segkit.inference import Protocol, presets
from segkit.inference.outputs import save_prediction
from segkit.monitor.versions import describe_environment
from segkit.runtime import files, model_file
from segkit.runtime.text import format_count
from segkit.types import Sample
from segkit.visualize.overlays import to_display_rgb
from segkit.visualize.tables import format_class_table, format_percent

SAME_DATA = ("name", "root", "val_split")  # settings that name a folder of results
HOW_TO_READ = ("cache", "on_error")  # settings of data that change no score
USUAL_FILES = ("best.pt", model_file.NAME)  # checkpoints whose results are named after the protocol alone


def choose_output_folder(settings: dict[str, Any], name: str) -> Path:
    """Return where a command writes: ``output``, or a folder beside the checkpoint or in ``runs/``."""
    if settings["output"] is not None:
        return Path(settings["output"])
    if settings["checkpoint"] is not None:
        return model_file.output_folder_for(settings["checkpoint"]) / name
    return Path("runs", Path(settings["model"]["weights"]).stem, name)


def name_test_folder(settings: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Return the name of a test's folder.

    It has the checkpoint unless that is ``best.pt``, the protocol and, unless they are the run's own, data
    and split.

    Args:
        settings: of the command.
        own: settings of the data that the network was trained on.
    """
    data, file = settings["data"], Path(settings["checkpoint"] or "best.pt")
    is_usual = file.name in USUAL_FILES or not file.suffix or "://" in str(settings["checkpoint"])
    words = ["test", *([] if is_usual else [file.name.removesuffix(".pt")]), presets.protocol_title(settings)]
    if not own or any(data.get(key) != own.get(key) for key in SAME_DATA):
        words += [data["name"], str(data.get("val_split", "val"))]
    return re.sub(r"[^\w.=-]+", "-", "-".join(words))


def make_output_folder(
    settings: dict[str, Any], own: Mapping[str, Any], protocol: Protocol, weights_sha256: str
) -> Path:
    """Make the folder for a result, which holds no result of other weights, data or protocol.

    Without ``output=`` the first of ``NAME``, ``NAME-2``, ... is taken that does not.

    Args:
        settings: of the command.
        own: settings of the data that the network was trained on.
        protocol: of the evaluation.
        weights_sha256: of ``partial.hash_weights``.

    Raises:
        ValueError: ``output=`` holds such a result; its report, tables and masks would be overwritten.
        OSError: the folder cannot be written.
    """
    place = choose_output_folder(settings, name_test_folder(settings, own))
    for number in itertools.count(2):
        difference = _find_difference(place, settings["data"], protocol, weights_sha256)
        if not difference:
            files.make_output_folder(place)
            return place
        if settings["output"] is not None:
            raise ValueError(f"{place} holds {difference}. Choose another output=..., or remove it")
        place = place.with_name(f"{name_test_folder(settings, own)}-{number}")
    raise AssertionError


def _find_difference(folder: Path, data: Any, protocol: Protocol, weights_sha256: str) -> str:
    """Return which other result a folder holds, empty if it holds none or the same."""
    try:
        there = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        other_data, other = there["settings"]["data"], dict(there["protocol"])
        other_weights = there["weights_sha256"]
    except OSError:
        return ""
    except (ValueError, KeyError, TypeError):
        return "a result.json that is damaged or of another program"
    now, data = json.loads(json.dumps([protocol.as_dict(), dict(data)]))
    extra = dict(other.pop("evaluators", None) or {})
    is_same_protocol = all(now.get(key) == value for key, value in other.items())
    has_extra = all(now["evaluators"].get(key) == value for key, value in extra.items())
    keys = (data.keys() | other_data.keys()) - {*HOW_TO_READ}
    is_same_data = all(data.get(key) == other_data.get(key) for key in keys)
    if is_same_protocol and is_same_data and has_extra and other_weights == weights_sha256:
        return ""
    weights = "" if other_weights == weights_sha256 else " of other weights"
    evaluators = "" if has_extra else f" with {', '.join(extra)}"
    name, root = describe_data({"data": other_data}), other_data.get("root")
    return f"the result{weights} of {other.get('name')}{evaluators} on {name}" + (
        f", root {root}" if root else ""
    )


def describe_data(settings: Mapping[str, Any]) -> str:
    """Data and split in words."""
    data = settings["data"]
    return f"{data['name']}, split {data.get('val_split', 'val')}"


def make_image_callback(
    folder: Path, table: LabelMap, *, kinds: Collection[str], gallery: Gallery | None
) -> Callable[[Sample, np.ndarray], None]:
    """What ``evaluate`` is to call with each image: saves the kinds, and shows it to the gallery."""

    def keep(sample: Sample, ids: np.ndarray) -> None:
        save_prediction(
            folder, sample.name, to_display_rgb(sample.image, sample.bands), ids, table, kinds=kinds
        )
        if gallery is not None:
            gallery.add(sample, ids)

    return keep


def write_results(folder: Path, evaluation: Evaluation, table: LabelMap, about: dict[str, Any]) -> None:
    """Write ``result.json``, ``classes.csv`` and ``confusion.csv``.

    Args:
        folder: made if it is not there.
        evaluation: by the evaluation.
        table: of the classes.
        about: what else has to stand in ``result.json``: data, weights, settings.
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
        **about,
        "versions": describe_environment(),
    }
    _write_text(folder / "result.json", json.dumps(_numbers(result), indent=1, ensure_ascii=False))
    each = {name: column.tolist() for name, column in metrics.compute_class_scores(evaluation.counts).items()}
    each |= evaluation.classes
    labeled, predicted = evaluation.counts.sum(1).tolist(), evaluation.counts.sum(0).tolist()
    heads = ["class", "id", "name", *each, "labeled pixels", "predicted pixels"]
    ids = [entry.id for entry in table.classes]
    rows = zip(range(table.num_classes), ids, table.names, *each.values(), labeled, predicted, strict=True)
    _write_csv(folder / "classes.csv", heads, rows)
    rows = ([name, *line] for name, line in zip(table.names, evaluation.counts.tolist(), strict=True))
    _write_csv(folder / "confusion.csv", ["truth \\ prediction", *table.names], rows)


def format_summary(evaluation: Evaluation, table: LabelMap, *, data: str) -> str:
    """Scores and classes as text, in percent, under the names of their data and protocol."""
    columns = metrics.compute_class_scores(evaluation.counts)
    shown = {name: columns[name].tolist() for name in ("IoU", "recall", "precision")}
    shown |= {name: column for name, column in evaluation.classes.items() if name not in shown}
    scores = "  ".join(
        f"{name} {format_percent(value)}{_format_interval(evaluation.intervals.get(name))}"
        for name, value in evaluation.scores.items()
    )
    percent = "in %, with 95 % intervals over images" if evaluation.intervals else "in %"
    images = format_count(evaluation.images, "image") + (
        f", {evaluation.skipped} skipped as unreadable" if evaluation.skipped else ""
    )
    return (
        f"{format_class_table(table.names, shown)}\n\n{data}: {images}\n{evaluation.protocol}\n"
        f"{percent}: {scores}\n(docs/using.md says what each of them means)"
    )


def _format_interval(interval: Interval | None) -> str:
    if interval is None or math.isnan(interval.low):
        return ""
    return f" ({format_percent(interval.low)} to {format_percent(interval.high)})"


def write_image_counts(folder: Path, names: Sequence[str], counts: np.ndarray) -> None:
    """Write ``image_counts.npz``, from which results on the same images can be compared.

    Args:
        folder: of the result.
        names: N, of the images.
        counts: (N, 3, K + C), ``intervals.count_pixels`` of each image.
    """
    with files.atomic_write(folder / "image_counts.npz") as file:
        np.savez_compressed(file, names=np.array(list(names)), counts=counts)


def _write_csv(path: Path, heads: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([["" if value != value else value for value in row] for row in rows])
    _write_text(path, text.getvalue())


def _write_text(path: Path, text: str) -> None:
    with files.atomic_write(path) as file:
        file.write(text.encode())


def _numbers(value: Any) -> Any:
    """The same with null for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
