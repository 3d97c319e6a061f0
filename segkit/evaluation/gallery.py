"""Selection of the worst and best images of an evaluation, scaled down."""

from __future__ import annotations

import bisect
from typing import NamedTuple

import cv2
import numpy as np

from segkit.evaluation import metrics
from segkit.runtime import distributed
from segkit.types import Sample, label_ignore_index
from segkit.visualize.overlays import shrink_sample

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
        self.worst, self.best = worst, best
        self.images: list[ScoredImage] = []  # by score; at most ``worst + best``

    def add(self, sample: Sample, prediction: np.ndarray) -> None:
        """Keep an image if it is among the worst or best so far; images without scored pixels are skipped."""
        score = compute_image_iou(sample.label, prediction)
        if np.isnan(score):
            return
        scores = [image.score for image in self.images]
        first, last = bisect.bisect_left(scores, score), bisect.bisect_right(scores, score)
        is_full = len(scores) == self.worst + self.best
        if is_full and first <= self.worst <= last:  # between the worst and the best, or equal to one
            return
        self.images.insert(last, shrink(sample, prediction, score))
        if is_full:
            del self.images[self.worst]

    def gather_images(self) -> list[ScoredImage]:
        """Return the worst and best images of all ranks, worst first; must be called on every rank."""
        images = [image for part in distributed.gather(self.images) for image in part]
        images.sort(key=lambda image: image.score)
        if len(images) <= self.worst + self.best:
            return images
        return images[: self.worst] + images[len(images) - self.best :]


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
    image, label = shrink_sample(sample, MAX_SIDE)
    prediction = prediction.astype(sample.label.dtype)
    prediction = cv2.resize(prediction, label.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return ScoredImage(sample.name, image, label, prediction, score)
