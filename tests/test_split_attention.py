"""Split-Attention against a loop over groups and splits written from the paper's formulas."""

from __future__ import annotations

import pytest
import torch

import originals
from segkit.models.layers.split_attention import SplitAttention


def rows_of(state, name, rows):
    """Some output channels of a convolution or normalization."""
    return {key: tensor[rows] for key, tensor in state.items() if key.startswith(f"{name}.") and tensor.ndim}


def reference(module: SplitAttention, x: torch.Tensor) -> torch.Tensor:
    """One cardinal group after the other; each split its own dense convolution."""
    state, radix, cardinality = module.state_dict(), module.radix, module.cardinality
    how = {"stride": module.conv.stride, "padding": module.conv.padding, "dilation": module.conv.dilation}
    per_split = x.shape[1] // (radix * cardinality)  # channels each split reads
    per_group = x.shape[1] // cardinality  # channels each split gives
    inner, out = module.fc1.out_channels // cardinality, []
    for k in range(cardinality):
        maps = []
        for r in range(radix):
            place = r * cardinality + k
            rows = slice(place * per_group, (place + 1) * per_group)
            one = rows_of(state, "conv", rows) | rows_of(state, "bn0", rows)
            read = x[:, place * per_split : (place + 1) * per_split]
            maps.append(originals.conv_norm_relu(one, "conv", "bn0", read, **how))
        s = sum(maps).mean((2, 3), keepdim=True)  # s^k: (B, C/K, 1, 1)
        rows = slice(k * inner, (k + 1) * inner)
        group = rows_of(state, "fc1", rows) | rows_of(state, "bn1", rows)
        z = originals.conv_norm_relu(group, "fc1", "bn1", s)
        scores = []
        for r in range(radix):
            start = (k * radix + r) * per_group
            last = rows_of(state, "fc2", slice(start, start + per_group))
            scores.append(originals.conv(last, "fc2", z).exp())
        total = sum(scores) if radix > 1 else 1 + scores[0]  # of a sigmoid
        out.append(sum(score / total * u for score, u in zip(scores, maps, strict=True)))
    return torch.cat(out, 1)


def randomized_module(channels: int, stride: int = 1, dilation: int = 1, **numbers: int) -> SplitAttention:
    torch.manual_seed(0)
    return originals.randomize(SplitAttention(channels, stride, dilation, **numbers))


@pytest.mark.parametrize("radix", [1, 2, 4])
@pytest.mark.parametrize("cardinality", [1, 2, 4])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (1, 4), (2, 3)])
def test_split_attention_equals_loop_over_groups(radix, cardinality, stride, dilation):
    module = randomized_module(32, stride, dilation, radix=radix, cardinality=cardinality)
    x = torch.randn(2, 32, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(module(x), reference(module, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("radix", "cardinality"), [(1, 2), (2, 2)])
def test_split_attention_gradient_matches_finite_differences(radix, cardinality):
    module = randomized_module(4, radix=radix, cardinality=cardinality)
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, *module.parameters()))


def test_splits_are_not_summed_at_full_size():
    module = randomized_module(32, radix=4)
    summed = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "sum" in str(function):
                summed.append(tuple(args[0].shape))
            return function(*args, **(kwargs or {}))

    with Watch():
        module(torch.randn(1, 32, 8, 8, dtype=torch.float64))
    assert summed == [(1, 4, 32, 1, 1)]  # only the pooled splits


def test_indivisible_channels_are_rejected():
    with pytest.raises(ValueError, match=r"multiple of cardinality 3 x radix 2"):
        SplitAttention(32, radix=2, cardinality=3)


def test_split_attention_keeps_channels_last_and_bf16():
    module = SplitAttention(8).eval().to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out.dtype == torch.bfloat16
