"""IoU by size of object: a network that misses every small thing can have a fine IoU, for large ones fill it.

An object is a connected part (8 neighbors) of a class in the label; small, medium and large are COCO's,
below 32 x 32 and below 96 x 96 pixels. What is predicted of a class beyond its label belongs to a size, too,
so that the counts of the sizes add up to those of the ordinary IoU: a connected part of the prediction that
meets objects of its class counts with the size it meets most of (the smaller of equals), any other with its
own.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from segkit.evaluation import metrics
from segkit.types import ClassTable, EvaluatorResult, ignore_index

SIZES = {"small": 32**2, "medium": 96**2, "large": None}  # pixels of an object, the bound itself excluded
BOUNDS = [bound for bound in SIZES.values() if bound is not None]


def count_objects(label: np.ndarray, prediction: np.ndarray, num_classes: int) -> Tensor:
    """What IoU by size counts in one image; add it up over a split and give it to ``iou_by_size``.

    Args:
        label: (H, W) class ids, or what is ignored.
        prediction: (H, W) class ids; what lies on ignored pixels joins its parts and counts nowhere.
        num_classes: K.

    Returns:
        (3 sizes, 3, K) int64: pixels with the class in both, in the label, in the prediction.
    """
    counted = label != ignore_index(num_classes)
    out = np.zeros((len(SIZES), 3, num_classes), np.int64)
    present = np.union1d(np.unique(label[counted]), np.unique(prediction[counted]))
    for k in present[present < num_classes]:  # a prediction of another tool may hold no class
        objects, areas = _parts(label == k)
        size_of_object = np.digitize(areas, BOUNDS)
        size = np.where(objects > 0, size_of_object[objects], -1)  # (H, W), -1 where the label is another
        hit = (prediction == k) & (objects > 0)
        out[:, 0, k] = _histogram(size[hit])
        out[:, 1, k] = _histogram(size[objects > 0])
        parts, areas = _parts(prediction == k)
        met = np.zeros((len(areas), len(SIZES)), np.int64)  # pixels of each part on objects of each size
        np.add.at(met, (parts[hit], size[hit]), 1)
        size_of_part = np.where(met.any(1), met.argmax(1), np.digitize(areas, BOUNDS))
        beyond = (parts > 0) & (objects == 0) & counted
        out[:, 2, k] = out[:, 0, k] + _histogram(size_of_part[parts[beyond]])
    return torch.from_numpy(out)


def _parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected parts of a mask: (H, W) numbers from 1 on, 0 outside, and the pixels of each number."""
    _, numbers, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return numbers, statistics[:, cv2.CC_STAT_AREA]


def _histogram(sizes: np.ndarray) -> np.ndarray:
    return np.bincount(sizes, minlength=len(SIZES))


def iou_by_size(counts: Tensor) -> dict[str, Tensor]:
    """IoU of each class, (K,) float64, for each size; NaN where a class has nothing of that size."""
    both, labeled, predicted = counts.double().unbind(1)
    return dict(zip(SIZES, both / (labeled + predicted - both), strict=True))


class ObjectSizes:
    """Counts of each size and class."""

    def __init__(self, table: ClassTable) -> None:
        self.num_classes = table.num_classes
        self.counts = torch.zeros(len(SIZES), 3, table.num_classes, dtype=torch.int64)

    def update(self, label: np.ndarray, prediction: Tensor) -> None:
        """Count an image."""
        self.counts += count_objects(label, prediction.cpu().numpy(), self.num_classes)

    def state(self) -> Tensor:
        """(3, 3, K) int64."""
        return self.counts

    def compute(self, state: Tensor) -> EvaluatorResult:
        """mIoU_small, mIoU_medium and mIoU_large, each over the classes with labeled objects of the size.

        Other classes are left out whatever the protocol counts for absent ones: the sky has no small objects.
        """
        each, labeled = iou_by_size(state), state[:, 1]
        means = {
            f"mIoU_{size}": metrics.mean_over_classes(iou, torch.diag(labeled[n]), absent="labels")
            for n, (size, iou) in enumerate(each.items())
            if labeled[n].any()
        }
        return EvaluatorResult(means, {f"IoU {size}": iou.tolist() for size, iou in each.items()})


def build(table: ClassTable) -> ObjectSizes:
    """IoU of small, medium and large objects of the classes of a table."""
    return ObjectSizes(table)
