"""Boundary IoU (Cheng et al. 2021, arXiv 2103.16562): IoU of the pixels near class boundaries."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from segkit.evaluation import metrics
from segkit.types import ClassTable, EvaluatorResult


class BoundaryIoU:
    """Counts of pixels near boundaries, see ``metrics.count_boundary_pixels``."""

    def __init__(self, table: ClassTable, absent: metrics.Absent) -> None:
        self.num_classes = table.num_classes
        self.absent: metrics.Absent = absent
        self.counts = torch.zeros(3, table.num_classes, dtype=torch.int64)

    def update(self, label: np.ndarray, prediction: Tensor) -> None:
        """Count an image."""
        self.counts += metrics.count_boundary_pixels(label, prediction.cpu().numpy(), self.num_classes)

    def state(self) -> Tensor:
        """Return the counts, (3, K) int64."""
        return self.counts

    def compute(self, state: Tensor) -> EvaluatorResult:
        """Return mIoU_boundary, over the classes near a boundary in labels or predictions."""
        pixels = state.numpy()
        iou = metrics.compute_class_scores(pixels)["IoU"]
        score = metrics.mean_over_classes(iou, pixels[metrics.LABELED], absent=self.absent)
        return EvaluatorResult({"mIoU_boundary": float(score)}, {"boundary IoU": iou.tolist()})


def build(table: ClassTable, absent: Any) -> BoundaryIoU:
    """Build Boundary IoU with bands of 2 % of the image diagonal."""
    return BoundaryIoU(table, absent)
