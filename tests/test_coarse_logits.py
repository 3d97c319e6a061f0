"""Losses of logits at the size of the head are those of the resized logits, with the same gradients."""

import pytest
import torch
import torch.nn.functional as F

from segkit.config import registry
from segkit.losses import _chunks
from segkit.types import IGNORE_INDEX, Logits

LOSSES = [name for name in registry.available("losses") if name != "mixed"]
CELLS = ((3, 5), (1, 1), (4, 1), (7, 9))
SIZES = ((17, 23), (24, 40), (7, 9), (5, 3))  # larger, equal and smaller


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("align_corners", [True, False])
def test_a_loss_of_cells_is_that_of_the_resized_logits(name, align_corners, monkeypatch):
    torch.manual_seed(0)
    loss = registry.build("losses", {"name": name}, num_classes=4)
    for number, (cells, size) in enumerate((cells, size) for cells in CELLS for size in SIZES):
        monkeypatch.setattr(_chunks, "LARGEST", 60 * 4 ** (number % 4))  # a line at a time, some, or all
        logits = torch.randn(2, 4, *cells, dtype=torch.double, requires_grad=True)
        label = torch.randint(0, 4, (2, *size), dtype=torch.uint8)
        label[0, :2] = IGNORE_INDEX
        found = loss(Logits(logits, logits.flip(0), align_corners), label)
        full = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
        expected = loss(Logits(full, full.flip(0)), label)
        for head in ("main", "aux"):
            torch.testing.assert_close(found[head], expected[head])
        (gradient,) = torch.autograd.grad(sum(found.values()), logits)
        torch.testing.assert_close(gradient, torch.autograd.grad(sum(expected.values()), logits)[0])
