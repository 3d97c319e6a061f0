"""Summary of a network without data: shapes, dilation, parameters, operations."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segkit.models.network import Segmenter
from segkit.runtime.text import first_line

RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")


class SummaryRow(NamedTuple):
    """One line of the summary."""

    name: str
    shape: tuple[int, ...]  # of the output for one image
    stride: str
    dilation: str
    parameters: int
    flops: int  # multiplications and additions of convolutions and matrix products


def count_parameters(module: nn.Module) -> int:
    """Count the trainable numbers."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(call: Callable[[], object]) -> int:
    """Return the operations of a call; a multiplication with an addition counts as two.

    PyTorch's counter imports its compiler, which takes seconds and 150 MB.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def measure_parts(model: Segmenter, crop: tuple[int, int], *, operations: bool = True) -> list[SummaryRow]:
    """Return a row for each stage of a ResNet backbone, or for any other backbone, and for each head.

    Args:
        model: on any device; it is not changed.
        crop: height and width of the image.
        operations: count the operations; otherwise they are 0.
    """
    model = copy.deepcopy(model).eval()
    if not operations:
        no_image = next(model.parameters()).new_empty((0, model.in_channels, *crop))
        # A batch of no images avoids the meta device, which imports the compiler; Swin does not take one.
        with contextlib.suppress(RuntimeError), torch.no_grad():
            return list(_measure(model, no_image, operations=False))
    image = torch.empty(1, model.in_channels, *crop, device="meta")
    with torch.no_grad():
        return list(_measure(model.to("meta"), image, operations=operations))


def _measure(model: Segmenter, image: Tensor, *, operations: bool) -> Iterator[SummaryRow]:
    def run(name: str, module: nn.Module, inputs: Any) -> tuple[Any, SummaryRow]:
        output = module(inputs)
        last = output[-1] if isinstance(output, list | tuple) else output
        shape = tuple(last.shape[1:])
        stride = str(round(image.shape[2] / shape[1])) if shape[1] > 1 else "all"
        flops = count_flops(lambda: module(inputs)) if operations else 0
        row = SummaryRow(name, shape, stride, list_dilations(module), count_parameters(module), flops)
        return output, row

    backbone: Any = model.backbone
    if all(hasattr(backbone, name) for name in ("conv1", "bn1", "relu", "maxpool", *RESNET_STAGES)):
        stem = nn.Sequential(backbone.conv1, backbone.bn1, backbone.relu, backbone.maxpool)
        x, row = run("stem", stem, image)
        yield row
        stages = []
        for i, name in enumerate(RESNET_STAGES, start=1):
            x, row = run(f"stage {i}", getattr(backbone, name), x)
            stages.append(x)
            yield row
    else:
        stages, row = run("backbone", backbone, image)
        yield row
    yield run("head", model.head, stages)[1]
    if model.auxiliary is not None:
        yield run("auxiliary", model.auxiliary, stages)[1]


def list_dilations(module: nn.Module) -> str:
    """Return the dilations of the 3x3 convolutions in order, without repetitions: ``"2, 4"``."""
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]
    return ", ".join(dict.fromkeys(str(conv.dilation[0]) for conv in convolutions)) or "-"


def format_summary(model: Segmenter, crop: int | tuple[int, int], *, operations: bool = True) -> str:
    """Return a table of a model's parts and their cost for one image.

    Args:
        model: on any device; it is not changed.
        crop: side of the image, or height and width.
        operations: count the operations, which takes seconds.
    """
    height, width = (crop, crop) if isinstance(crop, int) else crop
    try:
        rows = measure_parts(model, (height, width), operations=operations)
    except (RuntimeError, NotImplementedError, TypeError) as error:  # a foreign part needs real numbers
        return f"{count_parameters(model):,} parameters; operations are not counted ({first_line(error)})"
    heading = f"{'part':<10} {'shape':>16} {'stride':>6} {'dilation':>12} {'parameters':>12}"
    lines = [
        f"one image of {height} x {width}, {model.num_classes} classes",
        f"{heading} {'GMACs':>8} {'GFLOPs':>8}",
    ]
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        columns = f"{row.name:<10} {shape:>16} {row.stride:>6} {row.dilation:>12} {row.parameters:>12,}"
        lines.append(columns + _format_flops(row.flops))
    totals = {"total": rows}
    if model.auxiliary is not None:
        totals = {"training": rows, "inference": [row for row in rows if row.name != "auxiliary"]}
    for name, part in totals.items():
        count = sum(row.parameters for row in part)
        lines.append(f"{name:<47} {count:>12,}{_format_flops(sum(row.flops for row in part))}")
    if operations:
        lines.append(
            "operations of convolutions and matrix products; a MAC is a multiplication and an addition"
        )
    return "\n".join(lines)


def _format_flops(flops: int) -> str:
    """Return the columns GMACs and GFLOPs; dashes if the operations were not counted."""
    if not flops:
        return f" {'-':>8} {'-':>8}"
    return f" {flops / 2e9:>8.2f} {flops / 1e9:>8.2f}"
