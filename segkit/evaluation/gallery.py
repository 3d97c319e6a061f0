"""Selection of the worst and best images of an evaluation, scaled down."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import cv2
import numpy as np

from segkit.evaluation import metrics
from segkit.runtime import distributed
from segkit.types import Sample, label_ignore_index
from segkit.visualize.overlays import to_display_rgb

MAX_SIDE = 640  # pixels


class ScoredImage(NamedTuple):
    """One image with its label, prediction and score."""

    name: str
    image: np.ndarray  # (h, w, 3) uint8
    label: np.ndarray  # (h, w) class ids
    prediction: np.ndarray  # (h, w) class ids
    score: float  # mean IoU at full size


class Gallery:
    """Keeps the images with the lowest and highest scores: ``evaluate(..., on_image=gallery.add)``."""

    def __init__(self, *, worst: int = 9, best: int = 3) -> None:
        self.limits = {-1: worst, 1: best}
        self.heaps: dict[int, list[tuple[float, int, ScoredImage]]] = {-1: [], 1: []}
        self.count = 0

    def add(self, sample: Sample, prediction: np.ndarray) -> None:
        """Keep an image if it is among the worst or best so far; images without scored pixels are skipped."""
        score = compute_image_iou(sample.label, prediction)
        if np.isnan(score):
            return
        self.count += 1
        for sign, heap in self.heaps.items():
            is_full = len(heap) >= self.limits[sign]
            if is_full and (not heap or sign * score <= heap[0][0]):
                continue
            entry = (sign * score, -self.count, shrink(sample, prediction, score))
            if is_full:
                heapq.heappushpop(heap, entry)
            else:
                heapq.heappush(heap, entry)

    def gather_images(self) -> list[ScoredImage]:
        """Return the worst and best images of all ranks, worst first; must be called on every rank."""
        kept: dict[tuple[int, int], ScoredImage] = {}
        for sign, heap in self.heaps.items():
            parts = enumerate(distributed.gather(heap))
            entries = [(value, order, rank, scored) for rank, part in parts for value, order, scored in part]
            chosen = heapq.nlargest(self.limits[sign], entries, key=lambda entry: entry[:2])
            kept |= {(order, rank): scored for _, order, rank, scored in chosen}
        return sorted(kept.values(), key=lambda scored: scored.score)


def compute_image_iou(label: np.ndarray, prediction: np.ndarray) -> float:
    """Return the mean IoU of one image over the classes in its label; NaN if all pixels are ignored."""
    scored = label != label_ignore_index(label)
    if not scored.any():
        return float("nan")
    matrix = metrics.ConfusionMatrix(int(label[scored].max()) + 1, allow_no_class=True)
    matrix.update(label[scored], prediction[scored])
    return metrics.compute_scores(matrix.counts, absent="labels")["mIoU"]


def shrink(sample: Sample, prediction: np.ndarray, score: float) -> ScoredImage:
    """Return an image, its label and its prediction at most ``MAX_SIDE`` pixels long."""
    height, width = sample.label.shape
    factor = min(1.0, MAX_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    image = cv2.resize(to_display_rgb(sample.image, sample.bands), size, interpolation=cv2.INTER_AREA)
    label = cv2.resize(sample.label, size, interpolation=cv2.INTER_NEAREST_EXACT)
    prediction = prediction.astype(sample.label.dtype)
    prediction = cv2.resize(prediction, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return ScoredImage(sample.name, image, label, prediction, score)
