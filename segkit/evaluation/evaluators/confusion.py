"""Scores of the confusion matrix: pixAcc, mIoU, mAcc, fwIoU, mDice. Always enabled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from segkit.evaluation import metrics
from segkit.types import ClassTable, EvaluatorResult


class ConfusionScores:
    """Counts of (label, prediction) pairs, on the device of the network; see ``metrics.ConfusionMatrix``."""

    def __init__(
        self,
        table: ClassTable,
        absent: metrics.Absent,
        device: torch.device | str,
        *,
        allow_no_class: bool = False,
    ) -> None:
        self.table = table
        self.absent: metrics.Absent = absent
        self.matrix = metrics.ConfusionMatrix(table.num_classes, device, allow_no_class=allow_no_class)

    def update(self, label: np.ndarray, prediction: Tensor) -> None:
        """Count an image."""
        self.matrix.update(label, prediction)

    def state(self) -> Tensor:
        """Return the counts, (K, K) or (K, K + 1) int64, rows are labels."""
        return self.matrix.counts

    def compute(self, state: Tensor) -> EvaluatorResult:
        """Return the scores; also the ADE20K score on ADE20K, and mIoU_category if there are categories."""
        scores = metrics.compute_scores(state.cpu(), absent=self.absent)
        if self.table.name == "ade20k":
            scores["ADE20K"] = metrics.ade20k_score(scores)
        pixels = metrics.count_pixels(state.cpu(), self.table.categories)
        iou = metrics.compute_class_scores(pixels)["IoU"].tolist()
        classes = self.table.num_classes
        categories = list(dict.fromkeys(self.table.categories)) if len(iou) > classes else []
        if categories:
            merged = metrics.score_pixels(pixels[:, classes:], absent=self.absent)
            scores["mIoU_category"] = float(merged["mIoU"])
        return EvaluatorResult(
            scores, {"IoU": iou[:classes]}, dict(zip(categories, iou[classes:], strict=True))
        )


def build(table: ClassTable, absent: Any, device: torch.device | str) -> ConfusionScores:
    """Build the evaluator of the standard scores."""
    return ConfusionScores(table, absent, device)
