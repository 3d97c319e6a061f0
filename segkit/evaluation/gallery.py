"""The worst and best images of an evaluation, kept small while it runs."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import cv2
import numpy as np

from segkit.runtime import distributed
from segkit.types import Sample, ignore_index_of
from segkit.visualize.overlays import to_display_rgb

SIDE = 640  # pixels of the longer side that are kept


class ScoredImage(NamedTuple):
    """One image and how well it was predicted."""

    name: str
    image: np.ndarray  # (h, w, 3) uint8
    label: np.ndarray  # (h, w) class ids
    prediction: np.ndarray  # (h, w) class ids
    score: float  # at full size


class Gallery:
    """Collects images; to be passed as ``on_image=gallery.add`` to ``evaluate``.

    Args:
        worst: how many of the lowest score to keep.
        best: how many of the highest.
    """

    def __init__(self, *, worst: int = 9, best: int = 3) -> None:
        self.limits = {-1: worst, 1: best}
        self.heaps: dict[int, list[tuple[float, int, ScoredImage]]] = {-1: [], 1: []}
        self.count = 0

    def add(self, sample: Sample, prediction: np.ndarray) -> None:
        """Keep an image if it is among the worst or best so far; without scored pixels it is neither."""
        score = compute_image_iou(sample.label, prediction)
        if np.isnan(score):
            return
        self.count += 1
        for sign, heap in self.heaps.items():
            full = len(heap) >= self.limits[sign]
            if full and (not heap or sign * score <= heap[0][0]):
                continue
            entry = (sign * score, -self.count, shrink(sample, prediction, score))
            (heapq.heappushpop if full else heapq.heappush)(heap, entry)

    def gather_images(self) -> list[ScoredImage]:
        """The worst and best of all processes, each of which has to ask; worst first, each once."""
        kept: dict[tuple[int, int], ScoredImage] = {}
        for sign, heap in self.heaps.items():
            parts = enumerate(distributed.gather(heap))
            entries = [(value, order, rank, scored) for rank, part in parts for value, order, scored in part]
            chosen = heapq.nlargest(self.limits[sign], entries, key=lambda entry: entry[:2])
            kept |= {(order, rank): scored for _, order, rank, scored in chosen}
        return sorted(kept.values(), key=lambda scored: scored.score)


def compute_image_iou(label: np.ndarray, prediction: np.ndarray) -> float:
    """Mean IoU of one image over the classes in its label; NaN if all of it is ignored."""
    scored = label != ignore_index_of(label)
    if not scored.any():
        return float("nan")
    truth, predicted = label[scored], prediction[scored]
    count = 1 + max(int(truth.max()), int(predicted.max()))
    labeled, guessed, hits = (
        np.bincount(ids, minlength=count) for ids in (truth, predicted, truth[truth == predicted])
    )
    present = labeled > 0
    return float(np.mean(hits[present] / (labeled + guessed - hits)[present]))


def shrink(sample: Sample, prediction: np.ndarray, score: float) -> ScoredImage:
    """An image with its ids at most ``SIDE`` pixels long."""
    height, width = sample.label.shape
    factor = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    ids = [
        cv2.resize(x.astype(sample.label.dtype), size, interpolation=cv2.INTER_NEAREST_EXACT)
        for x in (sample.label, prediction)
    ]
    shown = to_display_rgb(sample.image, sample.bands)
    image = cv2.resize(shown, size, interpolation=cv2.INTER_AREA)
    return ScoredImage(sample.name, image, ids[0], ids[1], score)
