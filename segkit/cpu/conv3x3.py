"""3x3 convolutions that are slow in oneDNN: dilated ones, and with AMX those of many input channels.

At rate 36, the outer taps of a 3x3 meet padding on 60 % of the rows and columns of a map of 60 cells. oneDNN
skips it in the forward pass and in the gradient of the input, but not in the gradient of the weight, which
takes up to 12 times as long as the forward pass. Here it is one matrix product for each tap and image, over
the cells where the tap meets the map:

    dW[:, :, i, j] = sum over n, y, x of g[n, :, y, x] * input[n, :, y + d_i, x + d_j]^T

With AMX, two more passes are slow. oneDNN has no fast bf16 forward pass for many channels or a large
dilation. On large maps, the cells a dilation apart are gathered as separate images, which need no
dilation. On small maps these images would be mostly padding: there it is one matrix product for each part of
the map in which the same taps meet the map. And oneDNN's gradient of the weight falls to a quarter of its
speed with the number of input channels: here it is computed for 256 of them at a time, with bit-identical
results.

The choice depends on the processor and the shape, not on a measurement at run time: rounding differs, and a
resumed run must repeat it.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.cpu.convolution import Convolution, compute_gradient

MAX_SHARE_INSIDE = 0.7  # share of products inside the map above which oneDNN's own gradient is as fast
MIN_DILATION = 3  # of a slow forward pass with AMX (oneDNN 3.13), if one of the next two is reached
LARGE_DILATION, MANY_CHANNELS = 18, 1536
WIDE_INPUT = 512  # channels above which the gradient of the weight is slow with AMX
CHANNELS_AT_ONCE = 256
MIN_PHASE_SIDE = 8  # cells of each side, for which oneDNN is fast
BUFFER = 2**24  # bytes of input gathered for one matrix product


class FastConv3x3(nn.Conv2d):
    """Replaces an ``nn.Conv2d`` for which ``is_replaceable`` is true; results differ in rounding only."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(B, C, h, w) to (B, O, h, w)."""
        dilation = self.dilation[0]
        if torch.compiler.is_compiling() or input.device.type != "cpu":
            return super()._conv_forward(input, weight, bias)
        if torch.is_autocast_enabled("cpu"):
            input = input.to(torch.get_autocast_dtype("cpu"))
        forward = functools.partial(F.conv2d, padding=dilation, dilation=dilation)
        if input.dtype == torch.bfloat16 and is_slow_in_bf16(input.shape[1], dilation):
            forward = functools.partial(convolve, dilation=dilation)
        elif not (
            self.training
            and weight.requires_grad
            and (has_much_padding(input.shape[2:], dilation) or is_wide(input.shape[1]))
        ):
            return forward(input, weight, bias)
        backward = functools.partial(compute_gradients, dilation=dilation)
        return Convolution.apply(input, weight, bias, forward, backward)  # pyright: ignore[reportReturnType]


def is_replaceable(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return whether this is a 3x3 convolution of one group that keeps the size, and is dilated or wide."""
    if type(module) is not nn.Conv2d or module.padding_mode != "zeros":
        return False
    dilation = module.dilation[0]
    shape = module.kernel_size, module.stride, module.padding, module.dilation, module.groups
    if shape != ((3, 3), (1, 1), (dilation, dilation), (dilation, dilation), 1):
        return False
    return dilation > 1 or is_wide(module.in_channels)


def is_wide(channels: int) -> bool:
    """Return whether oneDNN's gradient of the weight is slow for this number of input channels."""
    return channels > WIDE_INPUT and has_amx()


def has_much_padding(size: torch.Size, dilation: int) -> bool:
    """Return whether matrix products for each tap are the faster gradient of the weight."""
    shares = [(1 + 2 * max(0, side - dilation) / side) / 3 for side in size]
    return math.prod(shares) <= MAX_SHARE_INSIDE  # of the products, those that meet no padding


def is_slow_in_bf16(channels: int, dilation: int) -> bool:
    """Return whether oneDNN's forward pass of a dilated 3x3 is several times slower than matrix products."""
    if dilation < MIN_DILATION or not has_amx():
        return False
    return dilation >= LARGE_DILATION or channels >= MANY_CHANNELS


@functools.cache
def has_amx() -> bool:
    """Return whether the processor has AMX."""
    check = getattr(torch.cpu, "_is_amx_tile_supported", None)  # private: absent in some versions
    return check is not None and check()


def compute_gradients(
    input: Tensor, grad: Tensor, weight: Tensor, needed: tuple[bool, bool], *, dilation: int
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of input and weight of a 3x3 convolution, None if not needed."""
    grad_input, grad_weight = None, None
    if needed[0]:
        weight, pair = weight.to(input.dtype), (dilation, dilation)
        grad_input = compute_gradient(input, grad, weight, of_input=True, padding=pair, dilation=pair)
    if needed[1] and has_much_padding(input.shape[2:], dilation):
        grad_weight = multiply_taps(input, grad, dilation)
    elif needed[1]:
        grad_weight = split_weight_gradient(input, grad, dilation)
    return grad_input, grad_weight


def convolve(input: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Return a 3x3 convolution of stride 1, padded by its dilation; each sum is rounded once.

    Args:
        input: (B, C, h, w), channels last for speed.
        weight: (O, C, 3, 3), also channels last.
        bias: (O,).
        dilation: rows and columns from one tap to the next.

    Returns:
        (B, O, h, w), channels last.
    """
    phases = dilation if dilation % 2 else dilation // 2  # leaves a dilation of 1 or 2
    if min(input.shape[2:]) >= MIN_PHASE_SIDE * phases:
        return _convolve_phases(input, weight, bias, dilation, phases)
    return _multiply_patches(input, weight, bias, dilation)


def _convolve_phases(
    input: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, phases: int
) -> Tensor:
    """Convolve each set of cells that are ``phases`` rows and columns apart as a separate image."""
    batch, channels, height, width = input.shape
    rows, columns = math.ceil(height / phases), math.ceil(width / phases)
    images = input.new_empty(batch, phases, phases, rows, columns, channels)
    images[:, :, :, -1] = 0  # where the map has no cell
    images[:, :, :, :, -1] = 0
    for i, j in itertools.product(range(phases), repeat=2):
        cells = input.permute(0, 2, 3, 1)[:, i::phases, j::phases]
        images[:, i, j, : cells.shape[1], : cells.shape[2]] = cells
    left = dilation // phases
    sums = F.conv2d(images.flatten(0, 2).permute(0, 3, 1, 2), weight, bias, padding=left, dilation=left)
    sums = sums.permute(0, 2, 3, 1).unflatten(0, images.shape[:3])
    result = _new_result(input, weight)
    for i, j in itertools.product(range(phases), repeat=2):
        cells = result.permute(0, 2, 3, 1)[:, i::phases, j::phases]
        cells.copy_(sums[:, i, j, : cells.shape[1], : cells.shape[2]])
    return result


def _new_result(input: Tensor, weight: Tensor) -> Tensor:
    """Return an empty result, channels last; no view, as a ReLU may change it in place."""
    shape = len(input), len(weight), *input.shape[2:]
    return torch.empty(shape, dtype=input.dtype, memory_format=torch.channels_last)


def _multiply_patches(input: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Multiply the weights by the cells that the taps meet, with all taps and channels in one sum."""
    cells, taps = input.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
    batch, height, width, channels = cells.shape
    of_batch, of_row, of_column, of_channel = cells.stride()
    result = _new_result(input, weight)
    result_cells = result.permute(0, 2, 3, 1)
    for (top, bottom, down), (left, right, across) in itertools.product(
        _split_side(height, dilation), _split_side(width, dilation)
    ):
        columns, matrix = right - left, taps[:, down[0] : down[-1] + 1, across[0] : across[-1] + 1].flatten(1)
        rows = max(1, BUFFER // (matrix.shape[1] * batch * columns * input.element_size()))
        for y in range(top, bottom, rows):
            end = min(y + rows, bottom)
            first = cells[:, y + (down[0] - 1) * dilation :, left + (across[0] - 1) * dilation :]
            gathered = first.as_strided(
                (batch, end - y, columns, len(down), len(across), channels),
                (of_batch, of_row, of_column, of_row * dilation, of_column * dilation, of_channel),
            ).reshape(-1, matrix.shape[1])
            sums = F.linear(gathered, matrix, bias)
            result_cells[:, y:end, left:right] = sums.view(batch, end - y, columns, -1)
    return result


def _split_side(size: int, dilation: int) -> list[tuple[int, int, list[int]]]:
    """Return the spans (start, end, taps) of a side; all cells of a span meet the map with the same taps."""
    cuts = sorted({0, min(dilation, size), max(0, size - dilation), size})
    spans = []
    for start, end in itertools.pairwise(cuts):
        shifts = [(tap, (tap - 1) * dilation) for tap in range(3)]
        spans.append((start, end, [tap for tap, by in shifts if start + by >= 0 and end + by <= size]))
    return spans


def split_weight_gradient(input: Tensor, grad: Tensor, dilation: int) -> Tensor:
    """Return the result of ``multiply_taps`` in the input's type, from oneDNN, some channels at a time."""
    parts, pair = [], (dilation, dilation)
    for channels in input.split(CHANNELS_AT_ONCE, 1):
        channels = channels.contiguous(memory_format=torch.channels_last)
        like = input.new_empty(grad.shape[1], channels.shape[1], 3, 3)
        like = like.contiguous(memory_format=torch.channels_last)
        parts.append(compute_gradient(channels, grad, like, of_input=False, padding=pair, dilation=pair))
    return torch.cat(parts, 1)


def multiply_taps(input: Tensor, grad: Tensor, dilation: int) -> Tensor:
    """Return the weight gradient of a 3x3 convolution of stride 1, padded by its dilation.

    Args:
        input: (B, C, h, w).
        grad: of the output, (B, O, h, w).
        dilation: cells between two taps.

    Returns:
        (O, C, 3, 3), at least float32, laid out as the weights of a channels-last network: autograd takes it
        as their gradient without a copy.
    """
    _, channels, height, width = input.shape
    dtype = torch.promote_types(input.dtype, torch.float32)
    total = torch.empty(grad.shape[1], 3, 3, channels, dtype=dtype, device=input.device)
    for i, j in itertools.product(range(3), repeat=2):
        down, across = (i - 1) * dilation, (j - 1) * dilation
        if abs(down) >= height or abs(across) >= width:
            total[:, i, j] = 0  # this tap meets nothing but padding
            continue
        images = zip(input.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1), strict=True)
        for number, (image, grad_image) in enumerate(images):
            cells = _shift(image, down, across).flatten(0, 1)  # (n, C)
            grad_cells = _shift(grad_image, -down, -across).flatten(0, 1)  # (n, O)
            matrix = grad_cells.T
            if grad.dtype == torch.bfloat16 and has_amx():
                matrix = matrix.contiguous()  # a transposed product takes a third longer there
            product = matrix @ cells
            if number == 0:
                total[:, i, j].copy_(product)
            else:
                total[:, i, j].add_(product)
    return total.permute(0, 3, 1, 2)


def _shift(map: Tensor, down: int, across: int) -> Tensor:
    """Return the cells (y + down, x + across) of (h, w, C), for every (y, x) that has one."""
    height, width = map.shape[:2]
    return map[max(0, down) : height + min(0, down), max(0, across) : width + min(0, across)]
