"""Dilate a network of output stride 32 to 8 or 16: the "a trous" algorithm (arXiv 1606.00915, section 3.1).

Strides beyond the output stride become 1, and every convolution and pool after them is dilated by as much.
The finer maps then contain the maps of the original network, at every second or fourth cell. No family of
networks needs special rules: the strides around each module are observed, and the result is checked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SIDE = 256  # of the image that strides are observed with; every stride divides it
CHECK_SIDE = 96  # of the image that the result is checked with: three cells at stride 32
TOLERANCE = 1e-3  # of the largest value, in float32
GLOBAL_FUNCTIONS = ("mean", "amax", "max", "norm", "adaptive_avg_pool2d", "adaptive_max_pool2d")
POOLS = (nn.MaxPool2d, nn.AvgPool2d)
Refinement = tuple[int, int]  # cells per cell of the original, along each side of the input and of the output
Sides = tuple[int, int, int, int]  # padding left, right, top, bottom, as in ``F.pad``


class PaddedConv2d(nn.Conv2d):
    """A convolution whose padding differs between the sides."""

    sides: Sides

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H/stride, W/stride)."""
        padded = F.pad(input, self.sides)
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class DilatedPool(nn.Module):
    """Mean or maximum over cells that lie ``dilation`` apart."""

    def __init__(
        self, pool: nn.MaxPool2d | nn.AvgPool2d, *, stride: int, dilation: int, sides: Sides
    ) -> None:
        super().__init__()
        self.is_max = isinstance(pool, nn.MaxPool2d)
        self.kernel = _square(pool.kernel_size)
        self.stride, self.dilation, self.sides = stride, dilation, sides
        self.counts_padding = isinstance(pool, nn.AvgPool2d) and pool.count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H/stride, W/stride)."""
        if self.is_max:
            x = F.pad(x, self.sides, value=-torch.inf)
            return F.max_pool2d(x, self.kernel, self.stride, 0, self.dilation)
        if self.counts_padding:
            return self._sum(x) / self.kernel**2
        return self._sum(x) / self._sum(torch.ones_like(x[:1, :1]))

    def _sum(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        ones = x.new_ones(channels, 1, self.kernel, self.kernel)
        return F.conv2d(F.pad(x, self.sides), ones, None, self.stride, 0, self.dilation, channels)


def fix_same_padding(network: nn.Module) -> None:
    """Make the padding of timm's ``Conv2dSame`` independent of the size of the map, in place.

    It becomes that of maps whose sides are multiples of the stride. Such a network can be exported for any
    size.
    """
    modules: list[Any] = [module for module in network.modules() if type(module).__name__ == "Conv2dSame"]
    for module in modules:
        sides: list[int] = []
        for size, dilation, stride in zip(module.kernel_size, module.dilation, module.stride, strict=True):
            total = max(0, dilation * (size - 1) + 1 - stride)
            sides = [total // 2, total - total // 2, *sides]  # the last axis first
        module.__class__ = PaddedConv2d
        module.sides = tuple(sides)


def dilate(network: nn.Module, output_stride: int, stages: Callable[[Any], list[Tensor]]) -> None:
    """Dilate a network in place, if a check on a copy with random weights shows that this keeps its results.

    The check replaces what is computed from whole maps (global means and maxima, statistics of groups):
    these are taken over more cells in every dilated network.

    Args:
        network: from an image (B, 3, H, W) to its stages; of output stride 32.
        output_stride: 8 or 16.
        stages: from the output of the network to its maps (B, C, h, w).

    Raises:
        ValueError: the network cannot be dilated; the message has the reason.
    """
    refinements = observe_refinements(network, output_stride)
    trial = _copy_with_random_weights(network)
    image = torch.rand(1, 3, CHECK_SIDE, CHECK_SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), _FixedStatistics():
        original = stages(trial(image))
        _dilate_modules(trial, refinements)
        try:
            dilated = stages(trial(image))
        except (RuntimeError, IndexError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"it does not take maps of other sizes ({reason})") from error
    for number, (coarse, fine) in enumerate(zip(original, dilated, strict=True), start=1):
        if not _is_refined(coarse, fine, output_stride):
            raise ValueError(f"the values of stage {number} would change, as by attention or a resize in it")
    _dilate_modules(network, refinements)


def _is_refined(coarse: Tensor, fine: Tensor, output_stride: int) -> bool:
    """Return whether a map has the values of a coarser one at the cells that both have."""
    factor = max(1, CHECK_SIDE // coarse.shape[2] // output_stride)
    if tuple(fine.shape[2:]) != (coarse.shape[2] * factor, coarse.shape[3] * factor):
        return False
    difference = (fine[:, :, ::factor, ::factor] - coarse).abs().max()
    return bool(difference <= TOLERANCE * coarse.abs().max())


def observe_refinements(network: nn.Module, output_stride: int) -> dict[str, Refinement]:
    """Return the convolutions and pools to change, by name: all whose maps become finer, unless pointwise."""
    refinements: dict[str, Refinement] = {}

    def observe(name: str, module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        before, after = (max(1, SIDE // x.shape[2] // output_stride) for x in (inputs[0], output))
        is_pointwise = _square(module.kernel_size) == 1 and _square(module.stride) == 1
        if after > 1 and not is_pointwise:
            refinements[name] = before, after

    network = copy.deepcopy(network).to("meta").eval()
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, *POOLS)):
            module.register_forward_hook(partial(observe, name))
    network(torch.empty(1, 3, SIDE, SIDE, device="meta"))
    return refinements


def _dilate_modules(network: nn.Module, refinements: dict[str, Refinement]) -> None:
    """Dilate convolutions and pools; their first tap stays where it is.

    Raises:
        ValueError: one is of a class whose padding is not known.
    """
    for name, (finer_input, finer_output) in refinements.items():
        module: Any = network.get_submodule(name)
        stride = _square(module.stride) * finer_input // finer_output
        dilation = _square(getattr(module, "dilation", 1)) * finer_input
        left = finer_input * (module.sides[0] if hasattr(module, "sides") else _square(module.padding))
        right = (_square(module.kernel_size) - 1) * dilation + 1 - stride - left
        sides = (left, right, left, right)
        if isinstance(module, POOLS):
            pool = DilatedPool(module, stride=stride, dilation=dilation, sides=sides)
            network.set_submodule(name, pool)
            continue
        if left - stride < right <= left and not isinstance(module, PaddedConv2d):
            module.padding = (left, left)
        elif type(module) in (nn.Conv2d, PaddedConv2d):
            module.__class__ = PaddedConv2d
            module.sides, module.padding = sides, (0, 0)
        else:
            raise ValueError(f"the padding of its {name}, a {type(module).__name__}, is not known")
        module.stride, module.dilation = (stride, stride), (dilation, dilation)


def _square(value: Any) -> int:
    """Return a number that is the same for both directions.

    Raises:
        ValueError: they differ.
    """
    if isinstance(value, int):
        return value
    if len(set(value)) != 1:
        raise ValueError(f"its kernels, strides or paddings are not square ({tuple(value)})")
    return value[0]


def _copy_with_random_weights(network: nn.Module) -> nn.Module:
    """Return a copy in float32 whose every block changes the output by about as much as the others."""
    network = copy.deepcopy(network).float().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            is_matrix = max(parameter.shape, default=1) < parameter.numel()
            if is_matrix:
                values = torch.randn(parameter.shape, generator=generator)
                values *= (parameter.shape[0] / parameter.numel()) ** 0.5
            else:  # a bias, or the scale of a normalization or of a whole block
                values = torch.rand(parameter.shape, generator=generator)
                values += -0.5 if "bias" in name else 0.5
            parameter.copy_(values)
    return network


class _FixedStatistics(TorchFunctionMode):
    """Gives the same numbers for all whole maps, and normalizes groups in each cell alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.group_norm:
            return args[0] / args[0].std(1, keepdim=True)
        result = func(*args, **(kwargs or {}))
        if _is_global(func, args, result):
            return torch.linspace(0.5, 1.5, result.numel()).view(result.shape)
        return result


def _is_global(func: Any, args: Any, result: Any) -> bool:
    """Return whether a call reduced a whole map, (B, C, h, w) or (B, h, w, C), to one value per channel."""
    if getattr(func, "__name__", "") not in GLOBAL_FUNCTIONS or not args:
        return False
    x = args[0]
    if not (isinstance(x, Tensor) and isinstance(result, Tensor) and x.ndim == 4):
        return False
    if result.ndim == 4:
        axes = [slice(2, 4), slice(1, 3)]  # of height and width
        return any(result.shape[axis] == (1, 1) and x.shape[axis] != (1, 1) for axis in axes)
    return result.shape == x.shape[:2]
