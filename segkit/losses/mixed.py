"""A weighted sum of losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segkit.config import NonNegativeFloat, registry
from segkit.types import Logits


class Mixed(nn.Module):
    """The weighted sum of several losses.

    The losses and label weights it returns have one value for each loss: some are means over pixels, others
    over images, so each has its own share of a micro-batch.
    """

    def __init__(self, losses: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        self.takes_head_logits = all(getattr(loss, "takes_head_logits", False) for loss in losses.values())
        self.weights = [weights[name] for name in losses]

    def forward(self, logits: Logits, label: Tensor) -> dict[str, Tensor]:
        """Return the weighted losses of each head, (P,); the loss is the sum of all.

        Args:
            logits: (B, K, H, W) each.
            label: (B, H, W), any integer type.
        """
        parts: list[dict[str, Tensor]] = [loss(logits, label) for loss in self.losses.values()]
        pairs = list(zip(self.weights, parts, strict=True))
        return {head: torch.stack([weight * part[head] for weight, part in pairs]) for head in parts[0]}

    def compute_weight(self, label: Tensor) -> Tensor:
        """Return the weight of the label in each of the losses, (P,) float64."""
        weights: list[Any] = [loss.compute_weight(label) for loss in self.losses.values()]  # pyright: ignore[reportCallIssue]
        return torch.stack([weight.to(weights[0].device) for weight in weights])


def build(
    num_classes: int, *, parts: dict[str, dict | bool | None], aux_weight: NonNegativeFloat = 0.2
) -> Mixed:
    """Build a weighted sum of the losses in this folder.

    Args:
        num_classes: K.
        parts: settings of each loss by its name, with ``weight`` (default 1), or true; null leaves it out.
        aux_weight: of the auxiliary head, for every part.

    Raises:
        ValueError: all weights are 0, or the settings of a loss are wrong.
    """
    if "mixed" in parts:
        raise ValueError("loss.parts.mixed: a sum cannot contain a sum. List its losses in loss.parts")
    losses, weights = {}, {}
    for name, part in parts.items():
        settings = {"name": name, "aux_weight": aux_weight}
        if isinstance(part, Mapping):
            settings |= part
        weight = settings.pop("weight", 1.0)
        if part not in (None, False) and weight:
            losses[name] = registry.build("losses", settings, num_classes=num_classes)
            weights[name] = weight
    if not losses:
        raise ValueError(
            "loss.parts: all weights are 0, so nothing would be learned. Give a loss a weight above 0, as in"
            " loss.parts.dice.weight=1"
        )
    return Mixed(losses, weights)
