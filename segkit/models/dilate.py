"""Dilate a network of output stride 32 to 8 or 16: the "a trous" algorithm (arXiv 1606.00915, section 3.1).

Strides beyond the output stride become 1, and every convolution and pool after them is dilated by as much.
The finer maps then contain the maps of the original network, at every second or fourth cell.

1. ``observe_strides`` runs the network without numbers and records the strides around each convolution and
   pool, so no family of networks needs special rules.
2. ``replace_strides`` changes these modules.
3. ``dilate`` does so on a copy first and compares its maps with the original's at the cells both have.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SIDE = 256  # of the image that strides are observed with; every stride divides it
CHECK_SIDE = 96  # of the image that the result is checked with: three cells at stride 32
TOLERANCE = 1e-3  # of the largest value, in float32
GLOBAL_FUNCTIONS = ("mean", "amax", "max", "norm", "adaptive_avg_pool2d", "adaptive_max_pool2d")
POOLS = (nn.MaxPool2d, nn.AvgPool2d)
Sides = tuple[int, int, int, int]  # padding left, right, top, bottom, as in ``F.pad``


class Strides(NamedTuple):
    """Pixels of the image per cell of the maps before and after a module."""

    before: int
    after: int


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


def dilate(network: nn.Module, output_stride: int, stages: Callable[[Any], list[Tensor]] = list) -> None:
    """Dilate a network in place, if a check on a copy shows that this preserves its results.

    The check holds what is computed from whole maps (global means and maxima, statistics of groups) constant:
    afterwards these are taken over more cells, as in every dilated network.

    Args:
        network: from an image (B, 3, H, W) to its stages; of output stride 32.
        output_stride: 8 or 16.
        stages: from the output of the network to its maps (B, C, h, w).

    Raises:
        ValueError: the network cannot be dilated; the message has the reason.
    """
    strides = observe_strides(network, output_stride)
    trial = _copy_with_random_weights(network)
    image = torch.rand(1, 3, CHECK_SIDE, CHECK_SIDE, generator=torch.Generator().manual_seed(0))
    image = image.to(next(trial.parameters()))
    statistics = _GlobalStatistics()
    with torch.no_grad():
        with statistics:
            original = stages(trial(image))
        replace_strides(trial, strides, output_stride)
        statistics.replay = True
        try:
            with statistics:
                dilated = stages(trial(image))
        except (RuntimeError, IndexError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"it does not take maps of other sizes ({reason})") from error
    for number, (coarse, fine) in enumerate(zip(original, dilated, strict=True), start=1):
        if not _is_refined(coarse, fine, output_stride):
            raise ValueError(
                f"something in stage {number} looks at its map in a way that dilation does not keep, such as "
                "attention between cells or a resize"
            )
    replace_strides(network, strides, output_stride)


def _is_refined(coarse: Tensor, fine: Tensor, output_stride: int) -> bool:
    """Return whether a map has the values of a coarser one at the cells that both have."""
    factor = max(1, CHECK_SIDE // coarse.shape[2] // output_stride)
    if tuple(fine.shape[2:]) != (coarse.shape[2] * factor, coarse.shape[3] * factor):
        return False
    difference = (fine[:, :, ::factor, ::factor] - coarse).abs().max()
    return bool(difference <= TOLERANCE * coarse.abs().max())


def observe_strides(network: nn.Module, output_stride: int) -> dict[str, Strides]:
    """Return the strides around each convolution and pool to change, by name.

    These are all after the output stride is reached, but for 1x1 convolutions of stride 1.

    Raises:
        ValueError: a module is used on maps of several sizes, or its map is not its input's over its stride.
    """
    observed: dict[str, Strides] = {}

    def observe(name: str, module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        input = inputs[0]
        strides = Strides(SIDE // input.shape[2], SIDE // output.shape[2])
        is_pointwise = _square(module.kernel_size) == 1 and _square(module.stride) == 1
        if is_pointwise or strides.after <= output_stride:
            return
        divides = SIDE % input.shape[2] == 0 and SIDE % output.shape[2] == 0
        if not divides or strides.after != strides.before * _square(module.stride):
            raise ValueError(
                f"its {name} makes a map of {output.shape[2]} cells from one of {input.shape[2]}"
            )
        if observed.setdefault(name, strides) != strides:
            raise ValueError(f"its {name} is used for maps of several sizes")

    network = copy.deepcopy(network).to("meta").eval()
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, *POOLS)):
            module.register_forward_hook(partial(observe, name))
    network(torch.empty(1, 3, SIDE, SIDE, device="meta"))
    return observed


def replace_strides(network: nn.Module, observed: dict[str, Strides], output_stride: int) -> None:
    """Set strides beyond the output stride to 1 and dilate these modules, in place."""
    for name, strides in observed.items():
        _dilate_module(network, name, strides, output_stride)


def _dilate_module(network: nn.Module, name: str, strides: Strides, output_stride: int) -> None:
    """Dilate one convolution or pool; its first tap stays where it is.

    Raises:
        ValueError: it is of a class whose padding is not known.
    """
    module: Any = network.get_submodule(name)
    finer_before = max(1, strides.before // output_stride)  # cells of its new input per cell of the old one
    finer_after = max(1, strides.after // output_stride)
    stride = _square(module.stride) * finer_before // finer_after
    dilation = _square(getattr(module, "dilation", 1)) * finer_before
    left = _left_padding(module, strides) * finer_before
    right = (_square(module.kernel_size) - 1) * dilation + 1 - stride - left
    sides = (left, right, left, right)
    if isinstance(module, POOLS):
        is_plain = dilation == 1 and left == right and not module.ceil_mode
        if is_plain and isinstance(module, nn.MaxPool2d):
            module.stride = stride
        else:
            pool = DilatedPool(module, stride=stride, dilation=dilation, sides=sides)
            network.set_submodule(name, pool)
        return
    if left - stride < right <= left and not _has_same_padding(module, strides):
        module.padding = (left, left)
    elif type(module) is nn.Conv2d or type(module).__name__ == "Conv2dSame":
        module.__class__ = PaddedConv2d
        vars(module)["sides"] = sides
        module.padding = (0, 0)
    else:
        raise ValueError(f"the padding of its {name}, a {type(module).__name__}, is not known")
    module.stride, module.dilation = (stride, stride), (dilation, dilation)


def _left_padding(module: Any, strides: Strides) -> int:
    """Return the cells of padding before the first tap of an undilated network's module."""
    if not _has_same_padding(module, strides):
        return _square(module.padding)
    reach = (_square(module.kernel_size) - 1) * _square(getattr(module, "dilation", 1)) + 1
    covered = (SIDE // strides.after - 1) * _square(module.stride) + reach
    return max(covered - SIDE // strides.before, 0) // 2


def _has_same_padding(module: Any, strides: Strides) -> bool:
    """Return whether a module pads as TensorFlow's "same": ``padding`` does not explain its output size."""
    if isinstance(module.padding, str):
        return True
    if isinstance(module, POOLS):
        return False
    reach = (_square(module.kernel_size) - 1) * _square(module.dilation) + 1
    padded = SIDE // strides.before + 2 * _square(module.padding)
    return (padded - reach) // _square(module.stride) + 1 != SIDE // strides.after


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


class _GlobalStatistics(TorchFunctionMode):
    """Records the values that a run computes from whole maps, or replays them in the next run."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Any] = []
        self.replay = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.group_norm:
            return self.group_norm(*args, **kwargs)
        result = func(*args, **kwargs)
        if _is_global(func, args, result):
            return self.record_or_replay(result)
        return result

    def record_or_replay(self, value: Any) -> Any:
        """Return the value, or in a replay the recorded one."""
        if self.replay:
            return self.values.pop(0)
        self.values.append(value)
        return value

    def group_norm(
        self,
        x: Tensor,
        groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        """Compute ``F.group_norm`` with the statistics of the first run."""
        cells = x.reshape(len(x), groups, -1)
        statistics = torch.var_mean(cells, 2, correction=0, keepdim=True)
        variance, mean = self.record_or_replay(statistics)
        out = ((cells - mean) / (variance + eps).sqrt()).reshape(x.shape)
        if weight is not None:
            out = out * weight.view(-1, 1, 1)
        if bias is not None:
            out = out + bias.view(-1, 1, 1)
        return out


def _is_global(func: Any, args: Any, result: Any) -> bool:
    """Return whether a call reduced a whole map, (B, C, h, w) or (B, h, w, C), to one value per channel."""
    if getattr(func, "__name__", "") not in GLOBAL_FUNCTIONS or not args:
        return False
    x = args[0]
    if not (isinstance(x, Tensor) and isinstance(result, Tensor) and x.ndim == 4):
        return False
    if result.ndim == 4:
        return any(result.shape[i : i + 2] == (1, 1) != x.shape[i : i + 2] for i in (1, 2))
    return result.shape == x.shape[:2]
