"""Split-Attention against a loop over groups and splits written from the paper's formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segkit.models.layers.split_attention import SplitAttention


def reference(module: SplitAttention, x: torch.Tensor) -> torch.Tensor:
    """One cardinal group after the other; each split its own dense convolution."""
    radix, cardinality = module.radix, module.cardinality
    conv = module.conv
    per_split = conv.in_channels // (radix * cardinality)  # channels each split reads
    per_group = conv.in_channels // cardinality  # channels each split gives
    norm = module.bn0
    maps, sums = {}, []
    for k in range(cardinality):
        for r in range(radix):
            place = r * cardinality + k
            read = x[:, place * per_split : (place + 1) * per_split]
            rows = slice(place * per_group, (place + 1) * per_group)
            u = F.conv2d(read, conv.weight[rows], None, conv.stride, conv.padding, conv.dilation)
            shape = (1, -1, 1, 1)
            u = (u - norm.running_mean[rows].view(shape)) / (
                norm.running_var[rows].view(shape) + norm.eps
            ).sqrt()
            maps[k, r] = F.relu(u * norm.weight[rows].view(shape) + norm.bias[rows].view(shape))
        sums.append(sum(maps[k, r] for r in range(radix)).mean((2, 3)))  # s^k: (B, C/K)

    out = []
    inner = module.fc1.out_channels // cardinality
    for k in range(cardinality):
        rows = slice(k * inner, (k + 1) * inner)
        z = sums[k] @ module.fc1.weight[rows, :, 0, 0].T + module.fc1.bias[rows]
        z = (z - module.bn1.running_mean[rows]) / (module.bn1.running_var[rows] + module.bn1.eps).sqrt()
        z = F.relu(z * module.bn1.weight[rows] + module.bn1.bias[rows])
        scores = []
        for r in range(radix):
            start = (k * radix + r) * per_group
            rows = slice(start, start + per_group)
            scores.append(z @ module.fc2.weight[rows, :, 0, 0].T + module.fc2.bias[rows])
        if radix == 1:
            weights = [1 / (1 + torch.exp(-scores[0]))]
        else:
            total = sum(torch.exp(score) for score in scores)
            weights = [torch.exp(score) / total for score in scores]
        out.append(sum(weights[r][:, :, None, None] * maps[k, r] for r in range(radix)))
    return torch.cat(out, 1)


def randomized_module(channels: int, stride: int = 1, dilation: int = 1, **numbers: int) -> SplitAttention:
    torch.manual_seed(0)
    module = SplitAttention(channels, stride, dilation, **numbers).double().eval()
    for norm in (module.bn0, module.bn1):
        for tensor in (norm.weight.data, norm.running_var):
            tensor.uniform_(0.5, 1.5)
        for tensor in (norm.bias.data, norm.running_mean):
            tensor.normal_()
    return module


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
