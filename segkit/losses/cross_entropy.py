"""Pixel-wise cross-entropy of the main and the auxiliary logits."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit import files
from segkit.settings import Fraction, NonNegativeFloat
from segkit.types import IGNORE_INDEX, Logits


class CrossEntropy(nn.Module):
    """Mean cross-entropy over the pixels that are scored, for each head.

    The mean is weighted by the classes' weights, so ``weight`` tells how much a batch counts: parts of a
    batch, on several devices or one after the other, add up to exactly the mean over the whole.
    """

    class_weights: Tensor
    weight_of_label: Tensor  # the same for every label value, 0 where it is ignored

    def __init__(self, class_weights: Tensor, *, aux_weight: float, label_smoothing: float) -> None:
        super().__init__()
        self.register_buffer("class_weights", class_weights, persistent=False)
        by_label = torch.zeros(IGNORE_INDEX + 1)
        by_label[: len(class_weights)] = class_weights
        self.register_buffer("weight_of_label", by_label, persistent=False)
        self.aux_weight = aux_weight
        self.label_smoothing = label_smoothing

    def forward(self, logits: Logits, label: Tensor) -> dict[str, Tensor]:
        """The weighted part of each head; the loss is their sum.

        Args:
            logits: (B, K, H, W) each.
            label: (B, H, W), any integer type.
        """
        target = label.long()
        parts = {"main": self._mean(logits.main, target)}
        if logits.aux is not None:
            parts["aux"] = self.aux_weight * self._mean(logits.aux, target)
        return parts

    def _mean(self, logits: Tensor, target: Tensor) -> Tensor:
        if torch.are_deterministic_algorithms_enabled():  # over rows CUDA adds up in a fixed order
            logits, target = logits.movedim(1, -1).flatten(0, -2), target.flatten()
        total = F.cross_entropy(
            logits.float(),
            target,
            self.class_weights,
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return total / self.weight(target).clamp(min=1e-9).float()  # an all-ignored batch: 0, with gradient 0

    def weight(self, label: Tensor) -> Tensor:
        """Sum of the class weights over the pixels that are scored; a float64 scalar on the loss's device."""
        return self.weight_of_label[label.to(self.weight_of_label.device).int()].sum(dtype=torch.float64)


def build(
    num_classes: int,
    *,
    aux_weight: NonNegativeFloat = 0.2,
    label_smoothing: Fraction = 0.0,
    class_weights: str | list[NonNegativeFloat] | None = None,
) -> CrossEntropy:
    """The loss of the published recipes.

    Args:
        num_classes: K.
        aux_weight: of the auxiliary head (PyTorch-Encoding 0.2, mmsegmentation 0.4, GluonCV 0.5).
        label_smoothing: share of the target spread over all classes.
        class_weights: K numbers, or a text file with one a line (``datasets/NAME.py stats`` writes one).

    Raises:
        ValueError: there are not K weights, or the file cannot be read as numbers.
    """
    return CrossEntropy(
        read_class_weights(class_weights, num_classes),
        aux_weight=aux_weight,
        label_smoothing=label_smoothing,
    )


def read_class_weights(source: str | list[float] | None, num_classes: int) -> Tensor:
    """(K,) float32 weights; ones when none are given.

    Raises:
        ValueError: there are not K weights, or the file cannot be read as numbers.
    """
    if source is None:
        return torch.ones(num_classes)
    values = source
    if isinstance(source, str):
        try:
            values = [float(line) for line in files.read_text(Path(source)).split()]
        except (OSError, ValueError) as error:
            raise ValueError(
                f"loss.class_weights={source}: one number a line is wanted, but {error}"
            ) from error
    if len(values) != num_classes:
        raise ValueError(f"loss.class_weights={source}: {len(values)} weights for {num_classes} classes")
    return torch.tensor(values, dtype=torch.float32)
