"""The page of the doctor: one self-contained HTML file with pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import get_args

import cv2
import numpy as np

from segkit.data.label_map import LabelMap
from segkit.data.pairs import Pairs
from segkit.runtime.text import format_count
from segkit.tools.doctor.findings import Case, Finding, Key, Severity
from segkit.tools.doctor.labels import Opinion, Suspect
from segkit.tools.doctor.ranking import describe_training, explain_suspect
from segkit.visualize import html, overlays

SIDE, RANKING_SIDE = 400, 560  # pixels of the longer side of a picture
MOST_PICTURES = 12  # of a finding
MOST_LINES = 60
PICTURES_OF_CASE = 2
OUTLINE, SHADOW = (255, 214, 10), (20, 20, 20)
BUTTONS = html.render_buttons(("image", "label", "prediction"))


def render_page(datasets: Mapping[str, Pairs], findings: Sequence[Finding], ranking: str) -> str:
    """Return the page: a summary, the findings in order, and the section of the ranking.

    Pictures are read again, so that none are kept in memory.
    """
    counts = Counter(finding.severity for finding in findings)
    cards = "".join(
        f'<div class="card"><span class="soft">{severity}</span><b>{counts[severity]}</b></div>'
        for severity in get_args(Severity)
    )
    sections = "".join(_render_finding(finding, datasets) for finding in findings)
    sections = sections or "<h2>Nothing was found</h2>"
    sizes = [f"{format_count(len(dataset), 'image')} of {split}" for split, dataset in datasets.items()]
    first = next(iter(datasets.values()))
    summary = f"{', '.join(sizes)}; {format_count(first.table.num_classes, 'class')}."
    body = f'<p class="soft">{escape(summary)}</p><div class="cards">{cards}</div>{sections}{ranking}'
    return html.render_page(f"Examination of {first.name}", body)


def _render_finding(finding: Finding, datasets: Mapping[str, Pairs]) -> str:
    badge = f'<span class="count {finding.severity}">{finding.severity}</span>'
    head = f"<h2>{escape(finding.kind.capitalize())}{badge}</h2>"
    count = format_count(len(finding.cases), "case")
    text = f"<p>{count}. <span class=soft>{escape(finding.remedy)}.</span></p>"
    pictured = [case for case in finding.cases if case.images][:MOST_PICTURES]
    figures = "".join(_render_case(case, datasets) for case in pictured)
    lines = [case.text for case in finding.cases if case not in pictured]
    if len(lines) > MOST_LINES:
        lines[MOST_LINES:] = [f"and {len(lines) - MOST_LINES:,} more, in doctor.json"]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<section>{head}{text}<div class="samples">{figures}</div><ul class="list">{items}</ul></section>'


def _render_case(case: Case, datasets: Mapping[str, Pairs]) -> str:
    """Return the first images of a case with the borders of their masks in the colors of the classes."""
    pictures = ""
    for key in case.images[:PICTURES_OF_CASE]:
        dataset = datasets[key.split]
        image, label = overlays.shrink_sample(dataset.read(key.position), SIDE)
        drawn = draw_borders(image, label, dataset.table.colors)
        pictures += html.render_image(drawn, key.name, kind="image", suffix=".jpg")
    return f'<figure><div class="pair">{pictures}</div><p>{escape(case.text)}</p></figure>'


def draw_borders(image: np.ndarray, label: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Draw the inner borders of all regions of a label in the colors of their classes."""
    eroded = cv2.erode(label, np.ones((3, 3), np.uint8))
    is_border = (cv2.dilate(label, np.ones((3, 3), np.uint8)) != eroded)[..., None]
    return np.where(is_border, overlays.colorize(label, colors, ignored=(128, 128, 128)), image)


def render_ranking(
    ranking: Sequence[Suspect], table: LabelMap, compare: Callable[[Key], Opinion], *, count: int
) -> str:
    """Return the section of the page on the first ``count`` images, which are compared again for it."""
    figures = "".join(
        _render_suspect(place, suspect, compare(suspect.key), table)
        for place, suspect in enumerate(ranking[:count], start=1)
    )
    legend = html.render_legend(range(table.num_classes), table.names, table.colors)
    note = (
        "Outlined: regions where the model contradicts the label more than usual. A score of 1 is usual in "
        f"this data set; doctor.json lists all {len(ranking):,} images."
    )
    summary = f"{escape(describe_training(ranking))} <span class=soft>{escape(note)}</span>"
    return (
        f"<section><h2>Images by how likely their labels are wrong</h2><p>{summary}</p>"
        f'<div class="choice" id="everywhere"><span class="soft">Show in all images:</span>{BUTTONS}</div>'
        f'<div class="samples">{figures}</div>{legend}</section>'
    )


def _render_suspect(place: int, suspect: Suspect, opinion: Opinion, table: LabelMap) -> str:
    image, label = overlays.shrink_sample(opinion.sample, RANKING_SIDE)
    prediction = cv2.resize(opinion.prediction, label.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    layers = {
        "image": draw_outlines(image, opinion.numbers, suspect.unusual_regions()),
        "label": overlays.colorize(label, table.colors),
        "prediction": overlays.colorize(prediction, table.colors),
    }
    split, name = suspect.key.split, escape(suspect.key.name)
    if suspect.is_trained_on:
        split += ", trained on"
    title = f'<span><span class="rank">{place}.</span> {name}</span><b>{suspect.score:.1f}</b>'
    reason = escape(explain_suspect(suspect, table.names)[1])
    pictures = html.render_layers(layers, suspect.key.name)
    return (
        f'<figure data-show="image"><figcaption>{title}</figcaption>{pictures}'
        f'<div class="choice">{BUTTONS}</div><p>{reason} <span class=soft>({split})</span></p></figure>'
    )


def draw_outlines(image: np.ndarray, numbers: np.ndarray, shown: Iterable[int]) -> np.ndarray:
    """Draw the outlines of numbered regions (h, w) on an image of any size."""
    drawn = image.copy()
    size = image.shape[1::-1]
    for number in shown:
        mask = cv2.resize((numbers == number).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
        contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        for color, width in ((SHADOW, 4), (OUTLINE, 2)):
            cv2.drawContours(drawn, contours, -1, color, width, cv2.LINE_AA)
    return drawn
