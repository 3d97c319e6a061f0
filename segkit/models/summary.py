"""What a network is made of and what it costs, without data: shapes, dilation, parameters, operations."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segkit.models.network import Segmenter
from segkit.runtime.text import first_line

RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")
Flops = Callable[[Callable[[], object]], int]  # runs a call and returns its operations


class SummaryRow(NamedTuple):
    """One line of the summary."""

    name: str
    shape: tuple[int, ...]  # of what it gives for one image
    stride: str
    dilation: str  # of its 3x3 convolutions, in order, each value once
    parameters: int
    flops: int  # multiplications and additions of convolutions and matrix products


def parameters(module: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(call: Callable[[], object]) -> int:
    """Return the operations of a call, multiplications and additions apart.

    PyTorch's counter imports its compiler, which takes seconds and 150 MB.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def measure_parts(model: Segmenter, crop: tuple[int, int], *, operations: bool = True) -> list[SummaryRow]:
    """Return the backbone and the heads, for one image of the given size; no arithmetic is done.

    A backbone of the ResNet family is listed by its stem and stages, any other as a whole.

    Args:
        model: on any device; it is not changed.
        crop: height and width of the image.
        operations: False leaves them uncounted, 0.
    """
    model = copy.deepcopy(model).eval()
    if not operations:
        none = next(model.parameters()).new_empty((0, model.in_channels, *crop))
        # the meta device would import the compiler, too; not every foreign part takes no images
        with contextlib.suppress(RuntimeError), torch.no_grad():
            return list(_parts(model, none, _run_only))
    one = torch.empty(1, model.in_channels, *crop, device="meta")
    with torch.no_grad():
        return list(_parts(model.to("meta"), one, count_flops if operations else _run_only))


def _run_only(call: Callable[[], object]) -> int:
    call()
    return 0


def _parts(model: Segmenter, image: Tensor, flops: Flops) -> Iterator[SummaryRow]:
    trunk: Any = model.backbone
    crop = image.shape[2:]
    if all(hasattr(trunk, name) for name in ("conv1", "bn1", "relu", "maxpool", *RESNET_STAGES)):
        modules: dict[str, nn.Module] = {
            "stem": nn.Sequential(trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool),
            **{f"stage {i}": getattr(trunk, name) for i, name in enumerate(RESNET_STAGES, start=1)},
        }
        maps: list[Tensor] = []
        for name, module in modules.items():
            out, cost = _run(module, maps[-1] if maps else image, flops)
            maps.append(out)
            yield _part(name, module, out, cost, crop)
        stages = maps[1:]
    else:  # any module that keeps the contract: how its own parts hang together is its affair
        stages, cost = _run(trunk, image, flops)
        yield _part("backbone", trunk, stages[-1], cost, crop)
    heads = {"head": model.head} | ({"auxiliary": model.auxiliary} if model.auxiliary is not None else {})
    for name, head in heads.items():
        yield _part(name, head, *_run(head, stages, flops), crop)


def _run(module: nn.Module, given: Any, flops: Flops) -> tuple[Any, int]:
    """What a module gives, and its operations."""
    out: list[Any] = []
    cost = flops(lambda: out.append(module(given)))
    return out[0], cost


def _part(name: str, module: nn.Module, out: Tensor, cost: int, crop: Sequence[int]) -> SummaryRow:
    shape = tuple(out.shape[1:])
    stride = str(round(crop[0] / shape[1])) if shape[1] > 1 else "all"
    return SummaryRow(name, shape, stride, dilations(module), parameters(module), cost)


def dilations(module: nn.Module) -> str:
    """Dilations of the 3x3 convolutions in the order they come, repetitions left out: ``"2, 4"``."""
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]
    return ", ".join(dict.fromkeys(str(conv.dilation[0]) for conv in convolutions)) or "-"


def format_summary(model: Segmenter, crop: int | tuple[int, int], *, operations: bool = True) -> str:
    """Return a table of a model's parts and their cost for one image.

    Args:
        model: on any device; it is not changed.
        crop: side of the image, or height and width.
        operations: whether they are counted, which takes seconds.
    """
    height, width = (crop, crop) if isinstance(crop, int) else crop
    try:
        rows = measure_parts(model, (height, width), operations=operations)
    except (RuntimeError, NotImplementedError, TypeError) as error:  # a foreign part needs real numbers
        return f"{parameters(model):,} parameters; operations are not counted ({first_line(error)})"
    lines = [f"one image of {height} x {width}, {model.num_classes} classes"]
    heading = f" {'GMACs':>8} {'GFLOPs':>8}" if operations else ""
    lines.append(f"{'part':<10} {'shape':>16} {'stride':>6} {'dilation':>12} {'parameters':>12}{heading}")
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        lines.append(
            f"{row.name:<10} {shape:>16} {row.stride:>6} {row.dilation:>12} {row.parameters:>12,}"
            f"{_cost(row.flops, operations)}"
        )
    used = [row for row in rows if row.name != "auxiliary"]
    for name, some in (("training", rows), ("inference", used)) if used != rows else (("total", rows),):
        total = sum(row.flops for row in some)
        count = sum(row.parameters for row in some)
        lines.append(f"{name:<47} {count:>12,}{_cost(total, operations)}")
    if operations:
        lines.append(
            "operations of convolutions and matrix products; a MAC is one multiplication with its addition"
        )
    return "\n".join(lines)


def _cost(flops: int, operations: bool) -> str:  # noqa: FBT001
    return f" {flops / 2e9:>8.2f} {flops / 1e9:>8.2f}" if operations else ""
