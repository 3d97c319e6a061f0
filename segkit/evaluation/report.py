"""HTML report of an evaluation: one self-contained page."""

from __future__ import annotations

import glob
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import numpy as np

from segkit.data.label_map import LabelMap
from segkit.evaluation.gallery import ScoredImage
from segkit.evaluation.intervals import Interval
from segkit.evaluation.scoring import Evaluation
from segkit.runtime import files
from segkit.runtime.text import format_count
from segkit.visualize import html, overlays, tables

DEFINITIONS = {
    "pixAcc": "pixel accuracy: fraction of labeled pixels with the correct class",
    "mAcc": "mean class accuracy: recall, averaged over classes",
    "mIoU": "mean intersection over union: correct / (labeled or predicted) pixels, averaged over classes",
    "fwIoU": "frequency-weighted IoU: IoU of the classes, weighted by their labeled pixels",
    "mDice": "mean Dice score (F1): 2 x correct / (labeled + predicted) pixels, averaged over classes",
    "ADE20K": "score of the ADE20K benchmark: mean of pixAcc and mIoU",
}
LAYERS = ("image", "label", "prediction", "error")


def write_report(
    folder: Path,
    evaluation: Evaluation,
    table: LabelMap,
    *,
    samples: Sequence[ScoredImage] = (),
    settings: Mapping[str, Any],
) -> Path:
    """Write ``report.html``, with links to the other result files in its folder."""
    counts, names, colors = np.asarray(evaluation.counts), table.names, table.colors
    present = overlays.present_classes([ids for s in samples for ids in (s.label, s.prediction)])
    other_files = sorted(f for f in folder.glob("*") if f.is_file() and f.suffix not in (".html", ".part"))
    links = " · ".join(_link(file, folder, file.name) for file in other_files)
    scores = evaluation.scores.items()
    body = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8")).substitute(
        protocol=escape(str(evaluation.protocol)),
        cards="".join(_render_card(name, value, evaluation.intervals.get(name)) for name, value in scores),
        definitions="".join(f"<dt>{n}<dd>{escape(DEFINITIONS[n])}" for n, _ in scores if n in DEFINITIONS),
        files=f"Result files: {links}" if links else "",
        classes=_render_class_table(names, colors, evaluation.class_table()),
        matrix=html.render_image(
            overlays.draw_confusion_matrix(counts, names), "confusion matrix", kind="heat"
        ),
        pairs=_render_confused_pairs(names, colors, counts),
        hide_samples="" if samples else "hidden",
        buttons=html.render_buttons(LAYERS),
        samples="".join(_render_sample(sample, colors, folder) for sample in samples),
        legend=html.render_legend(present, names, colors),
        settings=escape(json.dumps(settings, indent=1, ensure_ascii=False, default=str)),
    )
    page = html.render_page(_format_title(settings, evaluation.images), body)
    files.write_text(folder / "report.html", page)
    return folder / "report.html"


def _format_title(settings: Mapping[str, Any], images: int) -> str:
    """Return run, data set, split and number of images."""
    checkpoint, data = settings.get("checkpoint"), settings.get("data", {})
    title = settings.get("run_name") or "Evaluation"
    if checkpoint:
        title = Path(checkpoint).resolve().parent.name
    split = " ".join(str(data[key]) for key in ("name", "val_split") if data.get(key))
    if split:
        title += f" on {split}"
    return f"{title}: {format_count(images, 'image')}"


def _render_card(name: str, value: float, interval: Interval | None) -> str:
    definition = escape(DEFINITIONS.get(name, ""))
    head = f'<span class="soft">{escape(name)}</span>'
    bounds = tables.format_bounds(interval)
    if bounds:
        bounds = f'<span class="soft" title="95 % bootstrap interval over images">{bounds}</span>'
    return f'<div class="card" title="{definition}">{head}<b>{tables.format_percent(value)}</b>{bounds}</div>'


def _render_class_table(
    names: Sequence[str], colors: np.ndarray, columns: Mapping[str, Sequence[float]]
) -> str:
    headers = "".join(f'<th scope="col"><button type="button">{h}</button></th>' for h in ("class", *columns))
    rows = []
    for k, name in enumerate(names):
        cells = f'<td data-value="{escape(name)}">{html.render_class(k, names, colors)}</td>'
        for header, column in columns.items():
            cells += _render_number(column[k], has_bar=header == "IoU")
        rows.append(f"<tr>{cells}</tr>")
    head, body = f"<thead><tr>{headers}</tr></thead>", f"<tbody>{''.join(rows)}</tbody>"
    return f'<table class="sortable" id="classes">{head}{body}</table>'


def _render_number(fraction: float, *, has_bar: bool) -> str:
    value = "" if math.isnan(fraction) else f"{fraction:.9g}"
    attributes = 'class="number"'
    if has_bar:
        attributes = f'class="number bar" style="--share:{float(value or 0):.4f}"'
    return f'<td {attributes} data-value="{value}">{tables.format_percent(fraction)}</td>'


def _render_confused_pairs(names: Sequence[str], colors: np.ndarray, counts: np.ndarray) -> str:
    pairs = tables.most_confused_pairs(counts, 15)
    if not pairs:
        return "No pixels were confused."
    rows = [
        f"<tr><td>{html.render_class(label, names, colors)}</td>"
        f"<td class=text>{html.render_class(prediction, names, colors)}</td>"
        f"<td>{pixels:,}</td><td>{tables.format_percent(fraction)}</td></tr>"
        for label, prediction, pixels, fraction in pairs
    ]
    headers = "<th>label<th class=text>predicted as<th>pixels<th>% of the label"
    return f"<table id=pairs><thead><tr>{headers}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _render_sample(sample: ScoredImage, colors: np.ndarray, folder: Path) -> str:
    label, prediction = sample.label, sample.prediction
    layers = {
        "image": sample.image,
        "label": overlays.colorize(label, colors),
        "prediction": overlays.colorize(prediction, colors),
        "error": overlays.draw_error_map(label, prediction),
    }
    caption = f"<span>{escape(sample.name)}</span><b>{tables.format_percent(sample.score)}</b>"
    outputs = sorted(folder.glob(f"*/{glob.escape(sample.name)}.*"))  # saved predictions of this image
    links = " ".join(_link(file, folder, file.relative_to(folder).parts[0]) for file in outputs)
    return (
        f"<figure><figcaption>{caption}</figcaption>{html.render_layers(layers, sample.name)}"
        f'<div class="choice">{html.render_buttons(layers)} {links}</div></figure>'
    )


def _link(file: Path, folder: Path, text: str) -> str:
    return f'<a href="{quote(file.relative_to(folder).as_posix())}">{escape(text)}</a>'
