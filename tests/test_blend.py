"""Pooling and blending with gradients of their own, against plain autograd over drawn sizes and layouts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.models.layers.aspp import ASPP
from segkit.models.layers.blend import weighted_splits, weighted_sum
from segkit.models.layers.pooling import pooled

LAYOUTS = {"last": torch.channels_last, "first": torch.contiguous_format}
SIZES = {"batch": st.integers(1, 3), "channels": st.integers(1, 5), "height": st.integers(1, 6)}
drawn = {
    **SIZES,
    "width": st.integers(1, 6),
    "parts": st.integers(1, 4),
    "layout": st.sampled_from([*LAYOUTS]),
}


def gradients(way, x, weights):
    """Of a sum that uses the blend and the pooled map, as Split-Attention does."""
    x, weights = x.clone().requires_grad_(), weights.clone().requires_grad_()
    means, blend = way(x, weights)
    value = (blend * torch.arange(blend.numel(), dtype=x.dtype).view(blend.shape)).sum() + means.pow(3).sum()
    return [means.detach(), blend.detach(), *torch.autograd.grad(value, (x, weights))]


@settings(max_examples=60, deadline=None)
@given(**drawn)
def test_gradients_are_those_of_plain_autograd(batch, channels, height, width, parts, layout):
    torch.manual_seed(batch + 10 * channels + 100 * height + width)
    x = torch.randn(batch, parts * channels, height, width, dtype=torch.float64)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    weights = torch.randn(batch, parts, channels, 1, 1, dtype=torch.float64)

    def plain(x, weights):
        stacked = x.unflatten(1, (parts, channels))
        return x.mean((2, 3), keepdim=True), (stacked * weights).sum(1)

    found = gradients(lambda x, weights: (pooled(x), weighted_splits(x, weights)), x, weights)
    listed = gradients(lambda x, weights: (pooled(x), weighted_sum(x.chunk(parts, 1), weights)), x, weights)
    for ours, also, expected in zip(found, listed, gradients(plain, x, weights), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(also, expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_a_channels_last_map_stay_channels_last():
    x = torch.randn(2, 8, 5, 4).contiguous(memory_format=torch.channels_last)
    weights = torch.randn(2, 2, 4, 1, 1)
    of_x = gradients(lambda x, weights: (pooled(x), weighted_splits(x, weights)), x, weights)[2]
    assert of_x.is_contiguous(memory_format=torch.channels_last)


def test_what_needs_no_gradient_gets_none():
    x, weights = torch.randn(1, 4, 3, 3), torch.randn(1, 2, 2, 1, 1, requires_grad=True)
    weighted_splits(x, weights).sum().backward()
    assert weights.grad is not None
    assert not pooled(x).requires_grad
    with torch.no_grad():
        assert not weighted_splits(x.requires_grad_(), weights).requires_grad


@pytest.mark.parametrize("layout", [*LAYOUTS])
def test_branches_are_joined_in_the_layout_of_the_map(layout):
    joined = []
    aspp = ASPP(6, 4, [1, 2, 3])
    aspp.project.register_forward_pre_hook(lambda _, given: joined.append(given[0]))
    aspp(torch.randn(2, 6, 5, 7).contiguous(memory_format=LAYOUTS[layout]))
    assert joined[0].is_contiguous(memory_format=LAYOUTS[layout])
