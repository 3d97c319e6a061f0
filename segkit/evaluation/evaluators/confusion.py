"""Scores of the confusion matrix: pixAcc, mIoU, mAcc, fwIoU, mDice. Always enabled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from segkit.evaluation import metrics
from segkit.types import ClassTable, EvaluatorResult


class ConfusionScores:
    """Counts of (label, prediction) pairs, on the device of the network."""

    def __init__(self, table: ClassTable, absent: metrics.Absent, device: torch.device | str) -> None:
        self.table = table
        self.absent: metrics.Absent = absent
        self.matrix = metrics.ConfusionMatrix(table.num_classes, device)

    def update(self, label: np.ndarray, prediction: Tensor) -> None:
        """Count an image."""
        self.matrix.update(label, prediction)

    def state(self) -> Tensor:
        """Return the counts, (K, K) int64, rows are labels."""
        return self.matrix.counts

    def compute(self, state: Tensor) -> EvaluatorResult:
        """Return the scores; also the ADE20K score on ADE20K, and mIoU_category if there are categories."""
        scores = metrics.compute_scores(state, absent=self.absent)
        if self.table.name == "ade20k":
            scores["ADE20K"] = metrics.ade20k_score(scores)
        groups: dict[str, float] = {}
        if all(self.table.categories):
            names, merged = metrics.merge_classes(state, self.table.categories)
            groups = dict(zip(names, metrics.compute_class_scores(merged)["IoU"].tolist(), strict=True))
            scores["mIoU_category"] = metrics.compute_scores(merged, absent=self.absent)["mIoU"]
        return EvaluatorResult(scores, {"IoU": metrics.compute_class_scores(state)["IoU"].tolist()}, groups)


def build(table: ClassTable, absent: Any, device: torch.device | str) -> ConfusionScores:
    """Build the evaluator of the standard scores.

    Args:
        table: of the data set.
        absent: rule for classes that nobody labeled or predicted.
        device: for the counts.
    """
    return ConfusionScores(table, absent, device)
