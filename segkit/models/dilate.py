"""A network of output stride 32 made one of 8 or 16, exactly: strides become dilation in what follows.

The holes ("a trous") algorithm (arXiv 1606.00915, section 3.1): of the finer map, the cells of the coarse
grid hold what the network said before. How much each convolution and pool is to be dilated is read from the
sizes that it sees in a run, so no family has rules of its own; that the result is right is then tried out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SIDE = 256  # of the image whose run tells the sizes; a power of two, so that every stride divides it
TRIAL = 96  # of the image that the result is tried with: nine cells at stride 32
TOLERANCE = 1e-3  # of the largest value, in float32
GLOBAL = ("mean", "amax", "max", "norm", "adaptive_avg_pool2d", "adaptive_max_pool2d")
POOLS = (nn.MaxPool2d, nn.AvgPool2d)


class ObservedModule(NamedTuple):
    """What passed a module in the run: pixels of the image per cell before and after it."""

    before: int
    after: int


class PaddedConv2d(nn.Conv2d):
    """A convolution whose padding differs between the sides."""

    pads: tuple[int, int, int, int]  # left, right, top, bottom

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H/stride, W/stride)."""
        padded = F.pad(input, self.pads)
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class DilatedPool(nn.Module):
    """The mean or maximum over cells that lie ``dilation`` apart; zeros beyond the border may count."""

    def __init__(
        self,
        pool: nn.MaxPool2d | nn.AvgPool2d,
        *,
        stride: int,
        dilation: int,
        pads: tuple[int, int, int, int],
    ) -> None:
        super().__init__()
        self.maximum = isinstance(pool, nn.MaxPool2d)
        self.size, self.stride, self.dilation, self.pads = _one(pool.kernel_size), stride, dilation, pads
        self.zeros_count = isinstance(pool, nn.AvgPool2d) and pool.count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H/stride, W/stride)."""
        if self.maximum:
            x = F.pad(x, self.pads, value=-torch.inf)
            return F.max_pool2d(x, self.size, self.stride, 0, self.dilation)
        total = self._sums(x)
        return total / (self.size**2 if self.zeros_count else self._sums(torch.ones_like(x[:1, :1])))

    def _sums(self, x: Tensor) -> Tensor:
        ones = x.new_ones(x.shape[1], 1, self.size, self.size)
        return F.conv2d(F.pad(x, self.pads), ones, None, self.stride, 0, self.dilation, x.shape[1])


def dilate(network: nn.Module, output_stride: int, stages: Callable[[Any], list[Tensor]] = list) -> None:
    """Dilate a network in place, after trying on a copy that this keeps what it says on the coarse grid.

    What is taken from whole maps (global means and maxima, statistics of groups) is afterwards taken from
    more cells, as in every dilated network; in the trial it is held fast.

    Args:
        network: from an image (B, 3, H, W) to its stages; of output stride 32.
        output_stride: 8 or 16.
        stages: from what it returns to its maps (B, C, h, w).

    Raises:
        ValueError: the network cannot be dilated so; the message says what stands in the way.
    """
    seen = _sizes(network, output_stride)
    twin = _lively(network)
    held = _Held()
    image = torch.rand(1, 3, TRIAL, TRIAL, generator=torch.Generator().manual_seed(0))
    image = image.to(next(twin.parameters()))
    with torch.no_grad():
        with held:
            before = stages(twin(image))
        _transform(twin, seen, output_stride)
        held.again()
        try:
            with held:
                after = stages(twin(image))
        except (RuntimeError, IndexError, AssertionError) as error:
            raise ValueError(
                f"it does not take maps of other sizes ({str(error).splitlines()[0]})"
            ) from error
    for number, (coarse, fine) in enumerate(zip(before, after, strict=True), start=1):
        factor = max(1, TRIAL // coarse.shape[2] // output_stride)
        wanted = (coarse.shape[2] * factor, coarse.shape[3] * factor)
        difference = torch.inf
        if tuple(fine.shape[2:]) == wanted:
            difference = float((fine[:, :, ::factor, ::factor] - coarse).abs().max() / coarse.abs().max())
        if not difference <= TOLERANCE:
            raise ValueError(
                f"something in stage {number} looks at its map in a way that dilation does not keep, such as "
                "attention between cells or a resize"
            )
    _transform(network, seen, output_stride)


def _sizes(network: nn.Module, output_stride: int) -> dict[str, ObservedModule]:
    """Strides around each convolution and pool beyond the output stride, from a run without numbers."""
    shadow = copy.deepcopy(network).to("meta").eval()
    seen: dict[str, ObservedModule] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            sides = given[0].shape[2], out.shape[2]
            strides = ObservedModule(SIDE // sides[0], SIDE // sides[1])
            idle = _one(module.kernel_size) == 1 and _one(module.stride) == 1
            if idle or strides.after <= output_stride:
                return
            exact = all(side * stride == SIDE for side, stride in zip(sides, strides, strict=True))
            if not exact or strides.after != strides.before * _one(module.stride):
                raise ValueError(f"its {name} makes a map of {sides[1]} cells from one of {sides[0]}")
            if seen.setdefault(name, strides) != strides:
                raise ValueError(f"its {name} is used for maps of several sizes")

        return hook

    for name, module in shadow.named_modules():
        if isinstance(module, (nn.Conv2d, *POOLS)):
            module.register_forward_hook(keep(name))
    shadow(torch.empty(1, 3, SIDE, SIDE, device="meta"))
    return seen


def _transform(network: nn.Module, seen: dict[str, ObservedModule], output_stride: int) -> None:
    """Strides beyond the output stride become 1, and what follows them is dilated as much."""
    for name, strides in seen.items():
        before, after = (max(1, stride // output_stride) for stride in strides)
        stride = _one(_part(network, name).stride) * before // after
        _dilate_one(network, name, strides, before, stride=stride)


def _part(network: nn.Module, name: str) -> Any:
    return network.get_submodule(name)


def _dilate_one(network: nn.Module, name: str, strides: ObservedModule, factor: int, *, stride: int) -> None:
    """One convolution or pool: its taps ``factor`` times as far apart, from the same first one."""
    module: Any = _part(network, name)
    size, spread = _one(module.kernel_size), _one(getattr(module, "dilation", 1))
    dilation = spread * factor
    left = _left(module, SIDE // strides.before, SIDE // strides.after) * factor
    right = (size - 1) * dilation + 1 - stride - left
    if isinstance(module, POOLS):
        pads = (left, right, left, right)
        if dilation > 1 or left != right or module.ceil_mode or isinstance(module, nn.AvgPool2d):
            network.set_submodule(name, DilatedPool(module, stride=stride, dilation=dilation, pads=pads))
        else:
            module.stride = stride
        return
    if left - stride < right <= left and not _pads_itself(
        module, SIDE // strides.before, SIDE // strides.after
    ):
        module.padding = (left, left)
    elif type(module) is nn.Conv2d or type(module).__name__ == "Conv2dSame":
        module.__class__ = PaddedConv2d
        vars(module)["pads"] = (left, right, left, right)
        module.padding = (0, 0)
    else:
        raise ValueError(f"its {name}, a {type(module).__name__}, pads in a way of its own")
    module.stride, module.dilation = (stride, stride), (dilation, dilation)


def _left(module: Any, given: int, out: int) -> int:
    """Cells of padding before the first tap."""
    if not _pads_itself(module, given, out):
        return _one(module.padding)
    spread = _one(getattr(module, "dilation", 1))
    return max((out - 1) * _one(module.stride) + (_one(module.kernel_size) - 1) * spread + 1 - given, 0) // 2


def _pads_itself(module: Any, given: int, out: int) -> bool:
    """Whether the size after a convolution is not that of its ``padding``: TensorFlow's "same"."""
    if isinstance(module.padding, str):
        return True
    if isinstance(module, POOLS):
        return False
    reach = (_one(module.kernel_size) - 1) * _one(module.dilation) + 1
    return (given + 2 * _one(module.padding) - reach) // _one(module.stride) + 1 != out


def _one(value: Any) -> int:
    """The number of both directions.

    Raises:
        ValueError: they differ.
    """
    if isinstance(value, int):
        return value
    if len(set(value)) != 1:
        raise ValueError(f"its kernels, strides or paddings are not square ({tuple(value)})")
    return value[0]


def _lively(network: nn.Module) -> nn.Module:
    """A copy in which every block speaks: parameters are drawn so that none is silent beside the others."""
    twin = copy.deepcopy(network).float().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if max(parameter.shape, default=1) < parameter.numel():
                drawn = torch.randn(parameter.shape, generator=generator)
                drawn *= (parameter.shape[0] / parameter.numel()) ** 0.5
            else:  # scales of normalizations and of whole blocks are around 1
                drawn = torch.rand(parameter.shape, generator=generator) + (-0.5 if "bias" in name else 0.5)
            parameter.copy_(drawn)
    return twin


class _Held(TorchFunctionMode):
    """What one run takes from whole maps (means, maxima, statistics of groups), given again in the next."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []
        self.next: int | None = None

    def again(self) -> None:
        """From now on, give what was kept."""
        self.next = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.group_norm:
            return self.group_norm(*args, **kwargs)
        out = func(*args, **kwargs)
        return self.held(lambda: out) if _is_global(func, args, out) else out

    def held(self, fresh: Callable[[], Any]) -> Any:
        """The value in the first run, the same one in the second."""
        if self.next is None:
            self.kept.append(fresh())
            return self.kept[-1]
        self.next += 1
        return self.kept[self.next - 1]

    def group_norm(
        self,
        x: Tensor,
        groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        """As ``F.group_norm``, with the statistics of the first run."""
        cells = x.reshape(len(x), groups, -1)
        variance, mean = self.held(lambda: torch.var_mean(cells, 2, correction=0, keepdim=True))
        out = ((cells - mean) / (variance + eps).sqrt()).reshape(x.shape)
        out = out if weight is None else out * weight.view(-1, 1, 1)
        return out if bias is None else out + bias.view(-1, 1, 1)


def _is_global(func: Any, args: Any, out: Any) -> bool:
    """Whether a call took one value for each channel from a whole map, of (B, C, h, w) or (B, h, w, C)."""
    if getattr(func, "__name__", "") not in GLOBAL or not args:
        return False
    given = args[0]
    if not (isinstance(given, Tensor) and isinstance(out, Tensor) and given.ndim == 4):
        return False
    if out.ndim == 4:
        return any(out.shape[i : i + 2] == (1, 1) != given.shape[i : i + 2] for i in (1, 2))
    return out.shape == given.shape[:2]
