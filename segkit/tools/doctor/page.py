"""The page of the doctor: one self-contained HTML file with pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import cv2
import numpy as np

from segkit.data.label_map import DataError
from segkit.runtime.text import format_count
from segkit.tools.doctor.findings import SEVERITIES, Case, Finding, Key
from segkit.tools.doctor.scan import Scan
from segkit.types import Sample
from segkit.visualize import html, overlays

SIDE = 400  # pixels of the longer side of a picture
MOST_PICTURES = 12  # of a finding
MOST_LINES = 60
PICTURES_OF_CASE = 2

Read = Callable[[Key], Sample]


def render_page(scan: Scan, findings: Sequence[Finding], *, title: str, read: Read, ranking: str = "") -> str:
    """Return the page: a summary, the findings in order, and ``ranking``, the section on a model's view.

    Pictures are read again by ``read``, so that none are kept in memory.
    """
    counts = {severity: sum(f.severity == severity for f in findings) for severity in SEVERITIES}
    cards = "".join(
        f'<div class="card"><span class="soft">{severity}</span><b>{number}</b></div>'
        for severity, number in counts.items()
    )
    splits = ", ".join(f"{format_count(len(d), 'image')} of {s}" for s, d in scan.datasets.items())
    table = next(iter(scan.datasets.values())).table
    summary = escape(f"{splits}; {format_count(table.num_classes, 'class')}.")
    sections = "".join(_render_finding(finding, read, table.colors) for finding in findings)
    sections = sections or "<h2>Nothing was found</h2>"
    body = f'<p class="soft">{summary}</p><div class="cards">{cards}</div>{sections}{ranking}'
    return html.render_page(title, body)


def _render_finding(finding: Finding, read: Read, colors: np.ndarray) -> str:
    badge = f'<span class="count {finding.severity}">{finding.severity}</span>'
    head = f"<h2>{escape(finding.kind.capitalize())}{badge}</h2>"
    text = f"<p>{escape(finding.text)} <span class=soft>{escape(finding.remedy)}.</span></p>"
    with_pictures = [case for case in finding.cases if case.images][:MOST_PICTURES]
    figures = "".join(_render_case(case, read, colors) for case in with_pictures)
    lines = [case.text for case in finding.cases if case not in with_pictures]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines[:MOST_LINES])
    if len(lines) > MOST_LINES:
        items += f"<li>and {len(lines) - MOST_LINES:,} more, in doctor.json</li>"
    samples = f'<div class="samples">{figures}</div>' if figures else ""
    listed = f'<ul class="list">{items}</ul>' if items else ""
    return f"<section>{head}{text}{samples}{listed}</section>"


def _render_case(case: Case, read: Read, colors: np.ndarray) -> str:
    pictures = "".join(_render_picture(key, read, colors) for key in case.images[:PICTURES_OF_CASE])
    return f'<figure><div class="pair">{pictures}</div><p>{escape(case.text)}</p></figure>'


def _render_picture(key: Key, read: Read, colors: np.ndarray) -> str:
    """Return an image with the borders of its mask in the colors of the classes."""
    try:
        sample = read(key)
    except DataError as error:
        return f"<p>{escape(str(error))}</p>"
    image, label = overlays.shrink_sample(sample, SIDE)
    return html.render_image(draw_borders(image, label, colors), sample.name, kind="image", suffix=".jpg")


def draw_borders(image: np.ndarray, label: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Draw the inner borders of all regions of a label in the colors of their classes."""
    eroded = cv2.erode(label, np.ones((3, 3), np.uint8))
    is_border = (cv2.dilate(label, np.ones((3, 3), np.uint8)) != eroded)[..., None]
    return np.where(is_border, overlays.colorize(label, colors, ignored=(128, 128, 128)), image)
