"""SE, SK and SGE against their equations, computed position by position."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from segkit.models.layers.convolutional_attention import ConvolutionalAttention
from segkit.models.layers.selective_kernel import SelectiveKernel
from segkit.models.layers.spatial_group_enhance import SpatialGroupEnhance
from segkit.models.layers.squeeze_excitation import SqueezeExcitation


def random_map(*shape: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64)


def test_squeeze_excitation_matches_equation():
    x = random_map(2, 32, 5, 3)
    module = SqueezeExcitation(32).double()
    first, second = module.fc1.weight[:, :, 0, 0], module.fc2.weight[:, :, 0, 0]
    assert first.shape == (2, 32)
    for b in range(2):
        z = torch.stack([x[b, c].sum() / 15 for c in range(32)])
        s = 1 / (1 + torch.exp(-(second @ (first @ z + module.fc1.bias).clamp(min=0) + module.fc2.bias)))
        for c in range(32):
            torch.testing.assert_close(module(x)[b, c], s[c] * x[b, c])


@pytest.mark.parametrize("kernel", [3, 7])
def test_cbam_matches_equation(kernel):
    x = random_map(2, 32, 5, 4)
    module = ConvolutionalAttention(32, reduction=8, kernel=kernel).double().eval()
    first, second = module.fc1.weight[:, :, 0, 0], module.fc2.weight[:, :, 0, 0]
    assert first.shape == (4, 32)
    reach, out = kernel // 2, torch.zeros_like(x)
    for b in range(2):
        score = torch.zeros(32).double()
        for features in (x[b].flatten(1).sum(1) / 20, x[b].flatten(1).max(1).values):
            score += second @ (first @ features + module.fc1.bias).clamp(min=0) + module.fc2.bias
        scaled = x[b] / (1 + torch.exp(-score))[:, None, None]
        maps = torch.zeros(2, 5 + 2 * reach, 4 + 2 * reach).double()
        for i in range(5):
            for j in range(4):
                maps[0, i + reach, j + reach] = scaled[:, i, j].max()
                maps[1, i + reach, j + reach] = scaled[:, i, j].sum() / 32
        for i in range(5):
            for j in range(4):
                c = (maps[:, i : i + kernel, j : j + kernel] * module.conv.weight[0]).sum()
                out[b, :, i, j] = scaled[:, i, j] / (1 + torch.exp(-c / math.sqrt(1 + module.bn.eps)))
    torch.testing.assert_close(module(x), out)


@pytest.mark.parametrize(("branches", "stride", "dilation"), [(2, 1, 1), (3, 2, 1), (3, 1, 2)])
def test_selective_kernel_matches_equation(branches, stride, dilation):
    x = random_map(2, 16, 9, 7)
    kernels = [(m + 1, 4) for m in range(branches)]
    module = SelectiveKernel(16, stride, dilation, kernels=kernels).double().eval()
    maps = []
    for m, path in enumerate(module.paths, start=1):
        reach = m * dilation
        u = F.conv2d(x, path.conv.weight, None, stride, reach, reach, groups=4)
        maps.append((u / math.sqrt(1 + path.bn.eps)).clamp(min=0))  # a fresh BN divides by sqrt(1 + eps)
    s = sum(maps).mean((2, 3))
    z = (s @ module.attn.fc_reduce.weight[:, :, 0, 0].T / math.sqrt(1 + module.attn.bn.eps)).clamp(min=0)
    assert z.shape == (2, 32)
    select = module.attn.fc_select.weight[:, :, 0, 0]
    scores = [torch.exp(z @ select[m * 16 : (m + 1) * 16].T) for m in range(branches)]
    expected = sum((a / sum(scores))[:, :, None, None] * u for a, u in zip(scores, maps, strict=True))
    torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("normalize", [True, False])
def test_sge_matches_equation(normalize):
    x = random_map(2, 8, 3, 4)
    module = SpatialGroupEnhance(8, groups=2, scale=0.5, shift=-1.0, normalize=normalize).double()
    assert (module.weight.unique().tolist(), module.bias.unique().tolist()) == ([0.5], [-1])
    torch.nn.init.normal_(module.weight)
    torch.nn.init.normal_(module.bias)
    out = module(x)
    for b in range(2):
        for group in range(2):
            vectors = x[b, group * 4 : group * 4 + 4].flatten(1).T  # 12 positions of 4 channels
            g = vectors.sum(0) / 12
            c = torch.stack([torch.dot(g, vector) for vector in vectors])
            deviation = math.sqrt(((c - c.mean()) ** 2).sum() / 11)
            n = (c - c.mean()) / (deviation + 1e-5) if normalize else c
            for i in range(12):
                scale = module.weight[0, group, 0, 0] * n[i] + module.bias[0, group, 0, 0]
                expected = vectors[i] / (1 + torch.exp(-scale))
                torch.testing.assert_close(out[b, group * 4 : group * 4 + 4].flatten(1)[:, i], expected)


@pytest.mark.parametrize("x", [random_map(1, 64, 1, 1), torch.zeros(1, 64, 3, 3).double()])
def test_sge_of_constant_map_has_finite_gradient(x):
    x.requires_grad_()
    module = SpatialGroupEnhance(64).double()
    torch.nn.init.ones_(module.weight)
    module(x).sum().backward()
    torch.testing.assert_close(module(x), x / (1 + math.exp(-1)))
    assert x.grad.isfinite().all()


def test_groups_of_thin_networks_divide_channels():
    assert [path.conv.groups for path in SelectiveKernel(48).paths] == [16, 16]
    assert SpatialGroupEnhance(96).groups == 32


@pytest.mark.parametrize(
    "module",
    [SqueezeExcitation(4), SpatialGroupEnhance(4, groups=2), SelectiveKernel(4), ConvolutionalAttention(4)],
)
def test_attention_gradients_match_finite_differences(module):
    assert torch.autograd.gradcheck(module.double().eval(), random_map(1, 4, 2, 2).requires_grad_())


@pytest.mark.parametrize(
    "module",
    [SqueezeExcitation(64), SpatialGroupEnhance(64), SelectiveKernel(64), ConvolutionalAttention(64)],
)
def test_attention_keeps_bf16_under_autocast(module):
    x = random_map(2, 64, 4, 4).bfloat16().to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert module.eval()(x).dtype == torch.bfloat16
