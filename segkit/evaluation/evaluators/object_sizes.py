"""IoU by object size, because missed small objects hardly change the ordinary IoU.

An object is a connected component (8 neighbors) of a class in the label. Sizes are those of COCO: small is
below 32 x 32 pixels, medium below 96 x 96. False positives get a size too, so that counts of the sizes sum to
those of the ordinary IoU: a predicted component that overlaps objects of its class gets the size it overlaps
most (the smaller of equals), any other its own size.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from segkit.evaluation import metrics
from segkit.types import ClassTable, EvaluatorResult, ignore_index

SIZES = {"small": 32**2, "medium": 96**2, "large": None}  # pixels, upper bound excluded
BOUNDS = [bound for bound in SIZES.values() if bound is not None]


def count_pixels_by_object_size(label: np.ndarray, prediction: np.ndarray, num_classes: int) -> Tensor:
    """Count pixels by object size in one image; sum them over a split.

    Args:
        label: (H, W) class ids or ``ignore_index``.
        prediction: (H, W) class ids; predictions on ignored pixels connect components but are not counted.
        num_classes: K.

    Returns:
        (3 sizes, 3, K) int64: pixels with the class in both, in the label, in the prediction.
    """
    scored = label != ignore_index(num_classes)
    counts = np.zeros((len(SIZES), 3, num_classes), np.int64)
    present = np.union1d(np.unique(label[scored]), np.unique(prediction[scored]))
    for k in present[present < num_classes]:  # predictions of other tools may hold no class
        objects, areas = _find_components(label == k)
        object_sizes = np.digitize(areas, BOUNDS)
        is_object = objects > 0
        size = np.where(is_object, object_sizes[objects], -1)  # (H, W), -1 outside of objects
        is_correct = (prediction == k) & is_object
        counts[:, 0, k] = _count_sizes(size[is_correct])
        counts[:, 1, k] = _count_sizes(size[is_object])
        components, areas = _find_components(prediction == k)
        overlap = np.zeros((len(areas), len(SIZES)), np.int64)  # of components with objects of each size
        np.add.at(overlap, (components[is_correct], size[is_correct]), 1)
        component_sizes = np.where(overlap.any(1), overlap.argmax(1), np.digitize(areas, BOUNDS))
        false_positive = (components > 0) & ~is_object & scored
        counts[:, 2, k] = counts[:, 0, k] + _count_sizes(component_sizes[components[false_positive]])
    return torch.from_numpy(counts)


def _find_components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the components of a mask, numbered (H, W) from 1, 0 outside, and the area of each number."""
    _, numbers, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return numbers, statistics[:, cv2.CC_STAT_AREA]


def _count_sizes(sizes: np.ndarray) -> np.ndarray:
    return np.bincount(sizes, minlength=len(SIZES))


class ObjectSizes:
    """Counts by object size and class."""

    def __init__(self, table: ClassTable) -> None:
        self.num_classes = table.num_classes
        self.counts = torch.zeros(len(SIZES), 3, table.num_classes, dtype=torch.int64)

    def update(self, label: np.ndarray, prediction: Tensor) -> None:
        """Count an image."""
        self.counts += count_pixels_by_object_size(label, prediction.cpu().numpy(), self.num_classes)

    def state(self) -> Tensor:
        """Return the counts, (3, 3, K) int64."""
        return self.counts

    def compute(self, state: Tensor) -> EvaluatorResult:
        """Return mIoU_small, mIoU_medium and mIoU_large, each over the classes with such objects.

        Other classes are left out, whatever the absent rule: the sky has no small objects.
        """
        means, columns = {}, {}
        for size, counts in zip(SIZES, state.numpy(), strict=True):
            iou, labeled = metrics.compute_class_scores(counts)["IoU"], counts[metrics.LABELED]
            columns[f"IoU {size}"] = iou.tolist()
            if labeled.any():
                means[f"mIoU_{size}"] = float(metrics.mean_over_classes(iou, labeled, absent="labels"))
        return EvaluatorResult(means, columns)


def build(table: ClassTable) -> ObjectSizes:
    """Build IoU by object size."""
    return ObjectSizes(table)
