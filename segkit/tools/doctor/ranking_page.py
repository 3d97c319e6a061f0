"""The section of the page on images whose labels are probably wrong."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from segkit.tools.doctor.labels import Suspect
from segkit.tools.doctor.model import Model, Opinion, describe_suspect, describe_training
from segkit.tools.doctor.page import shrink
from segkit.visualize import html, overlays

SIDE = 560  # pixels of the longer side of a picture
OUTLINE, SHADOW = (255, 214, 10), (20, 20, 20)
LAYERS = ("image", "label", "prediction")
BUTTONS = "".join(f'<button type="button" data-layer="{layer}">{layer}</button>' for layer in LAYERS)


def render_ranking(ranking: Sequence[Suspect], model: Model, *, count: int) -> str:
    """Return the section with the first ``count`` images, which are predicted again for it."""
    figures = []
    for place, suspect in enumerate(ranking[:count], start=1):
        opinion = model.compare(suspect.evidence.key)
        figures.append(_render_suspect(place, suspect, opinion, model))
    legend = "".join(
        f"<div>{html.render_class(k, model.table.names, model.table.colors)}</div>"
        for k in range(model.table.num_classes)
    )
    note = (
        "Outlined: regions where the model contradicts the label more than usual. A score of 1 is usual in "
        f"this data set; doctor.json lists all {len(ranking):,} images."
    )
    parts = (
        "<section><h2>Images by how likely their labels are wrong</h2>",
        f"<p>{escape(describe_training(ranking))} <span class=soft>{escape(note)}</span></p>",
        f'<div class="choice" id="everywhere"><span class="soft">Show in all images:</span>{BUTTONS}</div>',
        f'<div class="samples">{"".join(figures)}</div><p></p>',
        f'<div class="panel legend">{legend}</div></section>',
    )
    return "".join(parts)


def _render_suspect(place: int, suspect: Suspect, opinion: Opinion, model: Model) -> str:
    image, label = shrink(opinion.sample, side=SIDE)
    prediction = cv2.resize(opinion.prediction, label.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    shown = [place for place, score in enumerate(suspect.region_scores, start=1) if score >= 1]
    outlined = draw_outlines(image, opinion.comparison.outlines, shown)
    name = suspect.evidence.name
    pictures = html.render_image(outlined, f"{name}: image", kind="image", suffix=".jpg")
    for layer, ids in (("label", label), ("prediction", prediction)):
        painted = overlays.colorize(ids, model.table.colors)
        pictures += html.render_image(painted, f"{name}: {layer}", kind=layer)
    split = suspect.evidence.key.split
    if suspect.evidence.is_trained_on:
        split += ", trained on"
    caption = f'<span><span class="rank">{place}.</span> {escape(name)}</span><b>{suspect.score:.1f}</b>'
    reason = escape(describe_suspect(suspect, model.table.names))
    return (
        f'<figure data-show="image"><figcaption>{caption}</figcaption><div class="layers">{pictures}</div>'
        f'<div class="choice">{BUTTONS}</div><p>{reason} <span class=soft>({split})</span></p></figure>'
    )


def draw_outlines(image: np.ndarray, numbers: np.ndarray, shown: Sequence[int]) -> np.ndarray:
    """Draw the outlines of numbered regions (h, w) on an image of any size."""
    drawn = image.copy()
    size = image.shape[1::-1]
    for number in shown:
        mask = cv2.resize((numbers == number).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
        contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        for color, width in ((SHADOW, 4), (OUTLINE, 2)):
            cv2.drawContours(drawn, contours, -1, color, width, cv2.LINE_AA)
    return drawn
