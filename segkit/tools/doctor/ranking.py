"""Findings and JSON from a ranking of images by how likely their labels are wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from segkit.tools.doctor.agreement import format_offset
from segkit.tools.doctor.findings import Case
from segkit.tools.doctor.labels import Suspect

EXCHANGE = 0.05  # nats per pixel: sound labels of CamVid have up to 0.014, exchanged ones nearly always more
SHIFT = 0.05  # nats per pixel: sound labels have 0, masks moved by 15 pixels at least 0.1
SUSPICIOUS = 5.0  # score of a region worth a look; 1 is usual
MIN_IMAGES = 3  # that two classes are mixed up in
MOST_MIXED = 20  # pairs of classes that are listed


def describe_training(ranking: Sequence[Suspect]) -> str:
    """Return a sentence on the images that the model was trained on."""
    flags = [suspect.is_trained_on for suspect in ranking]
    memory = "It agrees more with labels that it was trained on, even with wrong ones"
    if None in flags:
        return f"What the model was trained on is unknown: its training data were not found. {memory}."
    if not any(flags):
        return f"The model was trained on none of these {len(flags):,} images."
    trained = f"The model was trained on {sum(map(bool, flags)):,} of these {len(flags):,} images."
    return f"{trained} {memory}; they are compared among themselves."


def find_label_problems(ranking: Sequence[Suspect], names: Sequence[str]) -> Iterator[Case]:
    """Yield cases of exchanged classes, moved masks, suspicious regions and mixed-up classes."""
    for suspect in ranking:
        kind, reason = explain_suspect(suspect, names)
        if kind:
            yield Case(kind, (suspect.key,), f"{suspect.key.name}: {reason}")
    mixed: dict[tuple[int, int], list[float]] = defaultdict(list)  # shares of the pixels in each image
    for suspect in ranking:
        of_image: dict[tuple[int, int], float] = defaultdict(float)
        for region in suspect.unusual_regions().values():
            if region.label != region.prediction:
                of_image[region.label, region.prediction] += region.share
        for pair, share in of_image.items():
            mixed[pair].append(share)
    frequent = [item for item in mixed.items() if len(item[1]) >= MIN_IMAGES]
    for (label, predicted), shares in sorted(frequent, key=lambda item: -len(item[1]))[:MOST_MIXED]:
        where = f"{len(shares)} images, {np.mean(shares):.2%} of an image on average"
        yield Case("mixed-up classes", (), f"labeled {names[label]}, predicted {names[predicted]}: {where}")


def explain_suspect(suspect: Suspect, names: Sequence[str]) -> tuple[str, str]:
    """Return the kind of finding, empty for usual images, and the strongest evidence against the label."""
    regions, shift, offset, exchange = suspect.comparison
    if exchange is not None and exchange[2] >= EXCHANGE:
        return "exchanged classes", f"{names[exchange[0]]} and {names[exchange[1]]} look exchanged"
    if shift >= SHIFT:
        return "moved labels", f"fits the prediction better when moved by {format_offset(offset)}"
    if not regions:
        return "", "no suspicious region"
    region = max(regions, key=lambda region: region.score)
    share = f"{region.share:.1%} of the image"
    text = f"labeled {names[region.label]}, predicted {names[region.prediction]} ({share})"
    if region.score >= SUSPICIOUS:
        return "suspicious regions", text
    return "", text


def ranking_to_plain(ranking: Sequence[Suspect], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the ranking as the content of a JSON file."""
    rows = []
    for suspect in ranking:
        regions = [
            {
                "label": names[region.label],
                "prediction": names[region.prediction],
                "score": round(region.score, 3),
                "share": round(region.share, 5),
                "box": list(region.box),
            }
            for region in suspect.unusual_regions().values()
        ]
        rows.append(
            {
                "split": suspect.key.split,
                "name": suspect.key.name,
                "score": round(suspect.score, 3),
                "trained_on": suspect.is_trained_on,
                "reason": explain_suspect(suspect, names)[1],
                "regions": regions,
            }
        )
    return rows
