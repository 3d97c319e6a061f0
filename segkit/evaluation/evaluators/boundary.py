"""Boundary IoU (Cheng et al. 2021, arXiv 2103.16562): IoU of the pixels near a boundary of their own mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from segkit.evaluation import metrics
from segkit.types import ClassTable, EvaluatorResult


class BoundaryIoU:
    """Pixels near boundaries of each class: in both bands, in the label's, in the prediction's."""

    def __init__(self, table: ClassTable, absent: metrics.Absent) -> None:
        self.num_classes = table.num_classes
        self.absent: metrics.Absent = absent
        self.counts = torch.zeros(3, table.num_classes, dtype=torch.int64)

    def update(self, label: np.ndarray, prediction: Tensor) -> None:
        """Count an image."""
        self.counts += metrics.count_boundary_pixels(label, prediction.cpu().numpy(), self.num_classes)

    def state(self) -> Tensor:
        """(3, K) int64."""
        return self.counts

    def compute(self, state: Tensor) -> EvaluatorResult:
        """mIoU_boundary, over the classes that labels or predictions hold near a boundary."""
        iou = metrics.compute_boundary_iou(state)
        score = metrics.mean_over_classes(iou, torch.diag(state[1]), absent=self.absent)
        return EvaluatorResult({"mIoU_boundary": score}, {"boundary IoU": iou.tolist()})


def build(table: ClassTable, absent: Any) -> BoundaryIoU:
    """Boundary IoU, with bands of two percent of an image's diagonal.

    Args:
        table: of the data.
        absent: what a class counts in a mean that nobody labeled or predicted.
    """
    return BoundaryIoU(table, absent)
