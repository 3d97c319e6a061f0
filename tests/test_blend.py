"""Weighted sums of maps, and the pooled branch of ASPP."""

import pytest
import torch
from torch import nn

from segkit.models.layers.aspp import ASPP
from segkit.models.layers.blend import weighted_sum


@pytest.mark.parametrize("count", [1, 2, 4])
def test_weighted_sum_is_its_equation(count):
    torch.manual_seed(count)
    x = torch.randn(2, count * 3, 5, 4, dtype=torch.float64)
    weights = torch.randn(2, count, 3, 1, 1, dtype=torch.float64)
    expected = (x.unflatten(1, (count, 3)) * weights).sum(1)
    torch.testing.assert_close(weighted_sum(x.chunk(count, 1), weights), expected)


def test_pooled_branch_of_aspp_is_the_same_everywhere():
    aspp = ASPP(6, 4, [1, 2, 3]).eval()
    x = torch.randn(2, 6, 5, 7)
    pooled = aspp.b4(x)
    assert pooled.shape == (2, 4, 5, 7)
    expected = nn.Sequential(*aspp.b4.gap)(x.mean((2, 3), keepdim=True))
    assert torch.equal(pooled, expected.expand(-1, -1, 5, 7))
