"""A weighted sum of losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segkit.config import NonNegativeFloat, registry
from segkit.types import Logits


class Mixed(nn.Module):
    """The sum of several losses, each times its weight.

    What it returns for a head, and as weight of a label, has one number for each of the losses: they are
    means over different things, pixels or images, so each has its own share of a batch that comes in parts.
    """

    def __init__(self, losses: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        self.takes_head_logits = all(getattr(loss, "takes_head_logits", False) for loss in losses.values())
        self.weights = [weights[name] for name in losses]

    def forward(self, logits: Logits, label: Tensor) -> dict[str, Tensor]:
        """The weighted parts of each head, (P,); the loss is the sum of all.

        Args:
            logits: (B, K, H, W) each.
            label: (B, H, W), any integer type.
        """
        parts: list[dict[str, Tensor]] = [loss(logits, label) for loss in self.losses.values()]
        pairs = list(zip(self.weights, parts, strict=True))
        return {head: torch.stack([weight * part[head] for weight, part in pairs]) for head in parts[0]}

    def weight(self, label: Tensor) -> Tensor:
        """Return how much the label counts in each of the losses, (P,) float64."""
        weights: list[Any] = [loss.weight(label) for loss in self.losses.values()]  # pyright: ignore[reportCallIssue]
        return torch.stack([weight.to(weights[0].device) for weight in weights])


def build(num_classes: int, *, parts: dict[str, dict | None], aux_weight: NonNegativeFloat = 0.2) -> Mixed:
    """Any weighted sum of the losses in this folder.

    Args:
        num_classes: K.
        parts: settings of each loss by its name, with ``weight`` (else 1); null leaves it out.
        aux_weight: of the auxiliary head, for every part.

    Raises:
        ValueError: there is nothing to add up, or the settings of a part are wrong.
    """
    if "mixed" in parts:
        raise ValueError("loss.parts.mixed: a sum is no part of a sum; give its parts in loss.parts")
    given = {name: dict(part) for name, part in parts.items() if part is not None}
    weights = {name: part.pop("weight", 1.0) for name, part in given.items()}
    if not any(weights.values()):
        shown = ", ".join(f"{name} {weight:g}" for name, weight in weights.items()) or "no parts"
        raise ValueError(
            f"loss.parts: the weights ({shown}) sum to 0 and nothing would be learned;"
            " give one of them a weight above 0, as in loss.parts.dice.weight=1"
        )
    losses = {
        name: registry.build(
            "losses", {"name": name, "aux_weight": aux_weight} | part, num_classes=num_classes
        )
        for name, part in given.items()
        if weights[name]
    }
    return Mixed(losses, weights)
