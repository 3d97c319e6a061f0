"""One HTML page about an evaluation: no network, no other file, nothing in it but what it shows."""

from __future__ import annotations

import base64
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
from segkit.evaluation.gallery import Gallery, ScoredImage
from segkit.runtime import files
from segkit.runtime.text import format_count
from segkit.visualize import overlays, tables

__all__ = ["Gallery", "ScoredImage", "write_report"]

MEANINGS = {  # by score
    "pixAcc": "share of the scored pixels whose class is right",
    "mAcc": "mean over the classes of the share of their pixels that was found (recall)",
    "mIoU": "mean over the classes of intersection over union: right pixels by all labeled or predicted",
    "fwIoU": "mean of the classes' IoU, weighted by how many pixels are labeled so",
    "mDice": "mean over the classes of twice the right pixels by labeled plus predicted ones (F1)",
    "ADE20K": "mean of pixAcc and mIoU, the score of the ADE20K benchmark",
}
LAYERS = ("image", "truth", "prediction", "error")


def write_report(
    folder: Path,
    *,
    scores: Mapping[str, float],
    protocol: object,
    table: LabelMap,
    counts: np.ndarray,
    samples: Sequence[ScoredImage] = (),
    images: int,
    settings: Mapping[str, Any],
) -> Path:
    """Write ``report.html`` and link it to the files that lie beside it.

    Args:
        folder: of the evaluation's results.
        scores: fractions by name, in the order to show.
        protocol: shown as its ``str``.
        table: of the K classes.
        counts: (K, K) confusion matrix, true class first.
        samples: the images to show, as a ``Gallery`` keeps them.
        images: how many were scored.
        settings: nested, of plain values.
    """
    counts, names, colors = np.asarray(counts), table.names, table.colors
    shown = overlays.present_classes([ids for s in samples for ids in (s.label, s.prediction)])
    neighbors = sorted(f for f in folder.glob("*") if f.is_file() and f.suffix not in (".html", ".part"))
    links = " · ".join(_link(file, folder, file.name) for file in neighbors)
    page = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8")).substitute(
        title=escape(_title(settings, images)),
        protocol=escape(str(protocol)),
        cards="".join(_card(name, value) for name, value in scores.items()),
        meanings="".join(f"<dt>{n}<dd>{escape(MEANINGS[n])}" for n in scores if n in MEANINGS),
        files=f"Files beside this page: {links}" if links else "",
        classes=_class_table(names, colors, counts),
        matrix=_image(overlays.draw_confusion_matrix(counts, names), "confusion matrix", kind="heat"),
        pairs=_pairs_table(names, colors, counts),
        hide_samples="" if samples else "hidden",
        samples="".join(_figure(sample, colors, folder) for sample in samples),
        legend="".join(f"<div>{_class(k, names, colors)}</div>" for k in shown),
        settings=escape(json.dumps(settings, indent=1, ensure_ascii=False, default=str)),
    )
    folder.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(folder / "report.html") as file:
        file.write(page.encode())
    return folder / "report.html"


def _title(settings: Mapping[str, Any], images: int) -> str:
    """Run, data and number of images."""
    checkpoint, data = settings.get("checkpoint"), settings.get("data", {})
    run = Path(checkpoint).resolve().parent.name if checkpoint else settings.get("run_name") or "a network"
    place = " ".join(str(data[key]) for key in ("name", "val_split") if data.get(key))
    number = format_count(images, "image")
    return f"{run} on {place}: {number}" if place else f"{run}: {number}"


def _card(name: str, value: float) -> str:
    about = f' title="{escape(MEANINGS[name])}"' if name in MEANINGS else ""
    head = f'<span class="soft">{escape(name)}</span>'
    return f'<div class="card"{about}>{head}<b>{tables.format_percent(value)}</b></div>'


def _class(k: int, names: Sequence[str], colors: np.ndarray) -> str:
    red, green, blue = (int(c) for c in colors[k])
    return f'<span class="swatch" style="background:rgb({red},{green},{blue})"></span>{escape(names[k])}'


def _class_table(names: Sequence[str], colors: np.ndarray, counts: np.ndarray) -> str:
    columns = tables.class_scores(counts)
    heads = "".join(f'<th scope="col"><button type="button">{h}</button></th>' for h in ("class", *columns))
    rows = []
    for k, name in enumerate(names):
        cells = [_number(column[k], bar=head == "IoU") for head, column in columns.items()]
        first = f'<td data-value="{escape(name)}">{_class(k, names, colors)}</td>'
        rows.append(f"<tr>{first}{''.join(cells)}</tr>")
    head, body = f"<thead><tr>{heads}</tr></thead>", f"<tbody>{''.join(rows)}</tbody>"
    return f'<table class="sortable" id="classes">{head}{body}</table>'


def _number(fraction: float, *, bar: bool) -> str:
    missing = math.isnan(fraction)
    kind = f'class="number bar" style="--share:{0 if missing else fraction:.4f}"' if bar else 'class="number"'
    value = "" if missing else f"{fraction:.9g}"
    return f'<td {kind} data-value="{value}">{tables.format_percent(fraction)}</td>'


def _pairs_table(names: Sequence[str], colors: np.ndarray, counts: np.ndarray) -> str:
    pairs = tables.most_confused_pairs(counts, 15)
    if not pairs:
        return "nothing was confused"
    rows = [
        f"<tr><td>{_class(t, names, colors)}</td><td class=text>{_class(p, names, colors)}</td>"
        f"<td>{n:,}</td><td>{tables.format_percent(share)}</td></tr>"
        for t, p, n, share in pairs
    ]
    heads = "<th>truth<th class=text>taken for<th>pixels<th>% of the truth"
    return f"<table id=pairs><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _figure(sample: ScoredImage, colors: np.ndarray, folder: Path) -> str:
    label, prediction = sample.label, sample.prediction
    layers = {
        "truth": overlays.colorize(label, colors),
        "prediction": overlays.colorize(prediction, colors),
        "error": overlays.draw_error_map(label, prediction),
    }
    images = _image(sample.image, f"{sample.name}: image", kind="image", suffix=".jpg")
    images += "".join(_image(layers[kind], f"{sample.name}: {kind}", kind=kind) for kind in layers)
    buttons = "".join(f'<button type="button" data-layer="{layer}">{layer}</button>' for layer in LAYERS)
    caption = f"<span>{escape(sample.name)}</span><b>{tables.format_percent(sample.score)}</b>"
    saved = sorted(folder.glob(f"*/{glob.escape(sample.name)}.*"))  # what else was written of it
    links = " ".join(_link(file, folder, file.relative_to(folder).parts[0]) for file in saved)
    return (
        f'<figure><figcaption>{caption}</figcaption><div class="layers">{images}</div>'
        f'<div class="choice">{buttons} {links}</div></figure>'
    )


def _link(file: Path, folder: Path, text: str) -> str:
    return f'<a href="{quote(file.relative_to(folder).as_posix())}">{escape(text)}</a>'


def _image(image: np.ndarray, alternative: str, *, kind: str, suffix: str = ".png") -> str:
    data = base64.b64encode(overlays.encode_image(image, suffix)).decode()
    mime = "jpeg" if suffix == ".jpg" else "png"
    return f'<img class="{kind}" alt="{escape(alternative)}" src="data:image/{mime};base64,{data}">'
