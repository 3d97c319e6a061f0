"""Findings, JSON and a section of the page, from a ranking of images by how likely their labels are wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import cv2
import numpy as np

from segkit.data.label_map import LabelMap
from segkit.tools.doctor.agreement import format_offset
from segkit.tools.doctor.findings import Case, Finding, Key
from segkit.tools.doctor.labels import Opinion, Suspect
from segkit.visualize import html, overlays

EXCHANGE = 0.05  # nats per pixel: sound labels of CamVid have up to 0.014, exchanged ones nearly always more
SHIFT = 0.05  # nats per pixel: sound labels have 0, masks moved by 15 pixels at least 0.1
SUSPICIOUS = 5.0  # score of a region worth a look; 1 is usual
MIN_IMAGES = 3  # that two classes are mixed up in
SIDE = 560  # pixels of the longer side of a picture
OUTLINE, SHADOW = (255, 214, 10), (20, 20, 20)
BUTTONS = html.render_buttons(("image", "label", "prediction"))


def describe_training(ranking: Sequence[Suspect]) -> str:
    """Return a sentence on the images that the model was trained on."""
    flags = [suspect.is_trained_on for suspect in ranking]
    memory = "It agrees more with labels that it was trained on, even with wrong ones"
    if None in flags:
        return (
            f"The training data of the model were not found, so what it was trained on is unknown. {memory}."
        )
    if not any(flags):
        return f"The model was trained on none of these {len(flags):,} images."
    trained = f"The model was trained on {sum(map(bool, flags)):,} of these {len(flags):,} images."
    return f"{trained} {memory}; they are compared among themselves."


def find_label_problems(ranking: Sequence[Suspect], names: Sequence[str]) -> list[Finding]:
    """Return findings on exchanged classes, moved masks, suspicious regions and mixed-up classes."""
    exchanged, moved, doubtful, mixed = [], [], [], []
    for suspect in ranking:
        case = Case((suspect.key,), f"{suspect.name}: {describe_suspect(suspect, names)}")
        if _has_exchange(suspect):
            exchanged.append(case)
        elif suspect.comparison.shift >= SHIFT:
            moved.append(case)
        elif suspect.score >= SUSPICIOUS:
            doubtful.append(case)
    for (label, predicted), shares in list_mixed_classes(ranking)[:20]:
        where = f"{len(shares)} images, {100 * np.mean(shares):.2f} % of an image on average"
        mixed.append(Case((), f"labeled {names[label]}, predicted {names[predicted]}: {where}"))
    total = f"of {len(ranking):,} labels"
    return [
        Finding(
            "exchanged classes",
            "serious",
            f"{len(exchanged):,} {total} are likelier with two classes exchanged.",
            "Correct these masks",
            exchanged,
        ),
        Finding(
            "moved labels",
            "serious",
            f"{len(moved):,} {total} are likelier when moved.",
            "Move these masks",
            moved,
        ),
        Finding(
            "suspicious regions",
            "warning",
            f"{len(doubtful):,} {total} have regions that the model contradicts strongly.",
            "Look at them, and correct them where the model is right; --export writes them for label tools",
            doubtful,
        ),
        Finding(
            "mixed-up classes",
            "note",
            "Classes that the model and the labels disagree on most, in suspicious regions.",
            "Agree on where each of them ends",
            mixed,
        ),
    ]


def _has_exchange(suspect: Suspect) -> bool:
    exchange = suspect.comparison.exchange
    return exchange is not None and exchange[2] >= EXCHANGE


def list_mixed_classes(ranking: Sequence[Suspect]) -> list[tuple[tuple[int, int], list[float]]]:
    """Return pairs (label, prediction) with their share of the pixels in each image, most images first."""
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    for suspect in ranking:
        of_image: dict[tuple[int, int], float] = defaultdict(float)
        for region, score in zip(suspect.comparison.regions, suspect.region_scores, strict=True):
            if score >= 1 and region.label != region.prediction:
                of_image[region.label, region.prediction] += region.share
        for pair, share in of_image.items():
            found[pair].append(share)
    frequent = [(pair, shares) for pair, shares in found.items() if len(shares) >= MIN_IMAGES]
    return sorted(frequent, key=lambda each: -len(each[1]))


def describe_suspect(suspect: Suspect, names: Sequence[str]) -> str:
    """Return the strongest reason why the label of an image may be wrong."""
    regions, shift, offset, exchange = suspect.comparison
    if exchange is not None and _has_exchange(suspect):
        return f"{names[exchange[0]]} and {names[exchange[1]]} look exchanged"
    if shift >= SHIFT:
        return f"fits the prediction better when moved by {format_offset(offset)}"
    if not regions:
        return "no suspicious region"
    region = regions[int(np.argmax(suspect.region_scores))]
    share = f"{100 * region.share:.1f} % of the image"
    return f"labeled {names[region.label]}, predicted {names[region.prediction]} ({share})"


def ranking_to_plain(ranking: Sequence[Suspect], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the ranking as the content of a JSON file."""
    rows = []
    for suspect in ranking:
        regions = [
            {
                "label": names[region.label],
                "prediction": names[region.prediction],
                "score": round(score, 3),
                "share": round(region.share, 5),
                "box": list(region.box),
            }
            for region, score in zip(suspect.comparison.regions, suspect.region_scores, strict=True)
            if score >= 1
        ]
        rows.append(
            {
                "split": suspect.key.split,
                "name": suspect.name,
                "score": round(suspect.score, 3),
                "trained_on": suspect.is_trained_on,
                "reason": describe_suspect(suspect, names),
                "regions": regions,
            }
        )
    return rows


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
    image, label = overlays.shrink_sample(opinion.sample, SIDE)
    prediction = cv2.resize(opinion.prediction, label.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    shown = [number for number, score in enumerate(suspect.region_scores, start=1) if score >= 1]
    layers = {
        "image": draw_outlines(image, opinion.numbers, shown),
        "label": overlays.colorize(label, table.colors),
        "prediction": overlays.colorize(prediction, table.colors),
    }
    split = suspect.key.split
    if suspect.is_trained_on:
        split += ", trained on"
    title = (
        f'<span><span class="rank">{place}.</span> {escape(suspect.name)}</span><b>{suspect.score:.1f}</b>'
    )
    reason = escape(describe_suspect(suspect, table.names))
    pictures = html.render_layers(layers, suspect.name)
    return (
        f'<figure data-show="image"><figcaption>{title}</figcaption>{pictures}'
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
