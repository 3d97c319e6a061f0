"""Scores of the confusion matrix: pixAcc, mIoU, mAcc, fwIoU, mDice. Always enabled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segkit.evaluation import metrics
from segkit.types import ClassTable, EvaluatorResult


class ConfusionScores(metrics.ConfusionMatrix):
    """Counts of (label, prediction) pairs, on the device of the network."""

    def __init__(
        self,
        table: ClassTable,
        absent: metrics.Absent,
        device: torch.device | str,
        *,
        allow_no_class: bool = False,
    ) -> None:
        super().__init__(table.num_classes, device, allow_no_class=allow_no_class)
        self.table = table
        self.absent: metrics.Absent = absent

    def state(self) -> Tensor:
        """Return the counts, (K, K) or (K, K + 1) int64, rows are labels."""
        return self.counts

    def compute(self, state: Tensor) -> EvaluatorResult:
        """Return the scores, the IoU of each class, and of each category if there are categories."""
        pixels = metrics.count_pixels(state.cpu(), self.table.categories)
        scores = metrics.score_split(pixels, self.table, absent=self.absent)
        iou, classes = metrics.compute_class_scores(pixels)["IoU"].tolist(), self.table.num_classes
        categories = zip(dict.fromkeys(self.table.categories), iou[classes:], strict=False)
        columns = {"IoU": iou[:classes]}
        return EvaluatorResult({name: float(v) for name, v in scores.items()}, columns, dict(categories))


def build(table: ClassTable, absent: Any, device: torch.device | str) -> ConfusionScores:
    """Build the evaluator of the standard scores."""
    return ConfusionScores(table, absent, device)
