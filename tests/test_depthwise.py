"""Depthwise convolutions: gradients equal those of PyTorch, and slow kernels of oneDNN are not used."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from timm.layers import Conv2dSame
from torch import nn

from segkit.cpu import depthwise
from segkit.cpu.recompute import Recompute

lengths = st.one_of(st.integers(1, 4), st.integers(1, 40))
sides = st.tuples(lengths, lengths)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=200, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(2, 5),
    size=sides,
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.one_of(st.just(1), pairs),
    padding=st.one_of(st.integers(0, 6), st.tuples(st.integers(0, 6), st.integers(0, 6))),
    dilation=st.one_of(st.integers(1, 4), pairs),
    bias=st.booleans(),
    layout=st.sampled_from([torch.channels_last, torch.contiguous_format]),
)
def test_depthwise_gradients_equal_pytorch(
    batch, channels, size, kernel, stride, padding, dilation, bias, layout
):
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(batch, channels, *size, dtype=torch.double, generator=generator)
    x = x.contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(channels, 1, *kernel, dtype=torch.double, generator=generator, requires_grad=True)
    shift = torch.randn(channels, dtype=torch.double, generator=generator, requires_grad=True)
    parameters = [x, weight] + [shift] * bias
    arguments = shift if bias else None, stride, padding, dilation, channels
    try:
        expected = nn.functional.conv2d(x, weight, *arguments)
    except RuntimeError:  # the kernel is larger than the padded map
        assume(False)
    found = depthwise.conv2d(x, weight, *arguments)
    assert torch.equal(found, expected)
    grad = torch.randn(expected.shape, dtype=torch.double, generator=generator)
    ours = torch.autograd.grad(found, parameters, grad)
    theirs = torch.autograd.grad(expected, parameters, grad)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def uses_own_gradient(conv, *, bf16=False, mode=None):
    """Return whether a convolution of a training model gets the gradient of this module."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), mode or Recompute():
        result = conv(torch.randn(2, conv.in_channels, 20, 20))
    return type(result.grad_fn).__name__ == "ConvolutionBackward"


def test_slow_depthwise_gradients_are_replaced():
    assert uses_own_gradient(nn.Conv2d(4, 4, 5, padding=2, groups=4))
    assert uses_own_gradient(nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4))
    assert uses_own_gradient(Conv2dSame(4, 4, 5, stride=2, groups=4))
    assert uses_own_gradient(Conv2dSame(4, 4, 3, stride=2, groups=4), bf16=True)
    assert not uses_own_gradient(Conv2dSame(4, 4, 3, stride=2, groups=4))
    assert not uses_own_gradient(nn.Conv2d(4, 4, 3, padding=1, groups=4), bf16=True)
    assert not uses_own_gradient(nn.Conv2d(4, 4, 5, padding="same", groups=4))
    assert not uses_own_gradient(nn.Conv2d(4, 8, 5, padding=2, groups=4))
    assert not uses_own_gradient(nn.Conv2d(4, 4, 5, padding=2, groups=2))
    assert not uses_own_gradient(nn.Conv2d(4, 4, 5, padding=2))
    assert not uses_own_gradient(nn.Conv2d(4, 4, 5, padding=2, groups=4).requires_grad_(False))


@pytest.mark.parametrize(
    ("size", "stride", "dilation"), [(3, 2, 1), (5, 1, 1), (7, 1, 1), (5, 2, 1), (5, 1, 2)]
)
def test_bf16_gradients_are_as_exact_as_pytorch(size, stride, dilation):
    conv = nn.Conv2d(32, 32, size, stride, dilation * (size // 2), dilation, groups=32)
    conv.weight.data = conv.weight.data.bfloat16().float()
    exact = nn.Conv2d(32, 32, size, stride, dilation * (size // 2), dilation, groups=32).double()
    exact.load_state_dict(conv.state_dict())
    image = torch.randn(4, 32, 30, 27).bfloat16().contiguous(memory_format=torch.channels_last)
    grad = torch.randn(exact(image.double()).shape).bfloat16()

    def run(module, function, dtype):
        x = image.to(dtype).requires_grad_()
        arguments = module.bias, module.stride, module.padding, module.dilation, 32
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            out = function(x, module.weight, *arguments)
        return torch.autograd.grad(out, (x, module.weight, module.bias), grad.to(out.dtype))

    expected = run(exact, nn.functional.conv2d, torch.double)
    ours = run(conv, depthwise.conv2d, torch.bfloat16)
    theirs = run(conv, nn.functional.conv2d, torch.bfloat16)
    for a, b, right in zip(ours, theirs, expected, strict=True):
        assert (a - right).abs().max() <= 1.2 * (b - right).abs().max()
