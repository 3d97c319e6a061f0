"""Accuracy of the worst image of a split, which does not follow from the confusion matrix."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from segkit.config import PositiveInt
from segkit.types import EvaluatorResult, label_ignore_index


class Worst:
    """Histogram of image accuracies. Counts add up over processes; a minimum would not."""

    def __init__(self, bins: int) -> None:
        self.counts = torch.zeros(bins + 1, dtype=torch.int64)

    def update(self, label: np.ndarray, prediction: Tensor) -> None:
        """Count an image, unless all its pixels are ignored."""
        scored = label != label_ignore_index(label)
        if scored.any():
            right = (label == prediction.cpu().numpy())[scored].mean()
            self.counts[int(right * (len(self.counts) - 1))] += 1

    def state(self) -> Tensor:
        """Return the counts, (bins + 1,) int64."""
        return self.counts

    def compute(self, state: Tensor) -> EvaluatorResult:
        """Return the lower end of the lowest bin with an image."""
        return EvaluatorResult({"worst_pixAcc": int(state.nonzero()[0]) / (len(state) - 1)})


def build(*, bins: PositiveInt = 100) -> Worst:
    """Return the evaluator."""
    return Worst(bins)
