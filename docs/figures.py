"""Draw the figures of split_attention.md, dilation.md and results.md: ``python docs/figures.py``."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from a clone

from segkit.models.layers.split_attention import SplitAttention

IMAGES = Path(__file__).parent / "images"
INK, BLUE, ORANGE, PALE = "#1c1e21", "#1558b0", "#b45309", "#eef2f7"


def record_shapes(channels: int, side: int) -> dict[str, tuple[int, ...]]:
    """Return the output shapes (channels, height, width) of the parts of a Split-Attention."""
    block = SplitAttention(channels).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, part in block.named_children():

        def record(_part: Any, _inputs: Any, output: torch.Tensor, name: str = name) -> None:
            shapes[name] = tuple(output.shape[1:])

        part.register_forward_hook(record)
    with torch.no_grad():
        shapes["output"] = tuple(block(torch.zeros(1, channels, side, side)).shape[1:])
    return shapes


def draw_split_attention() -> Figure:
    """Draw the data flow of Split-Attention with radix 2, with the shapes of a real block."""
    channels, side = 64, 56
    shapes = {name: " x ".join(map(str, shape)) for name, shape in record_shapes(channels, side).items()}
    figure = Figure(figsize=(9, 3.9))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 9), ylim=(0, 3.9))
    axes.axis("off")

    def box(x: float, y: float, text: str, color: str = INK, width: float = 1.5) -> None:
        style = "round,pad=0,rounding_size=0.08"
        axes.add_patch(FancyBboxPatch((x, y - 0.3), width, 0.6, style, fc=PALE, ec=color, lw=1.3))
        axes.text(
            x + width / 2, y, text, ha="center", va="center", color=color, fontsize=8.5, linespacing=1.4
        )

    def arrow(x: float, y: float, x2: float, y2: float, color: str = INK, bend: str = "") -> None:
        properties = {"arrowstyle": "->", "color": color, "lw": 1.3, "shrinkA": 0, "shrinkB": 2}
        if bend:
            properties["connectionstyle"] = bend
        axes.annotate("", (x2, y2), (x, y), arrowprops=properties)

    box(0.15, 2.0, f"input\n{channels} x {side} x {side}", width=1.2)
    box(1.7, 2.0, f"3x3 convolution, 2 groups\nBN, ReLU: {shapes['conv']}", width=1.9)
    box(4.05, 3.3, "split 1\n$U_1$", BLUE, 0.9)
    box(4.05, 0.7, "split 2\n$U_2$", BLUE, 0.9)
    box(4.1, 2.0, "sum, mean\n" + f"$s$: {channels}", width=0.95)
    box(
        5.4,
        2.0,
        f"fc, BN, ReLU: {shapes['fc1'].split(' ')[0]}\nfc: {shapes['fc2'].split(' ')[0]}",
        ORANGE,
        1.25,
    )
    box(6.95, 2.0, "softmax\n" + "$a_1 + a_2 = 1$", ORANGE, 1.0)
    box(7.55, 3.3, f"$V = a_1 U_1 + a_2 U_2$: {shapes['output'].split(' ')[0]}", width=1.4)
    arrow(1.35, 2.0, 1.7, 2.0)
    arrow(3.6, 2.1, 4.05, 3.2, BLUE)
    arrow(3.6, 1.9, 4.05, 0.8, BLUE)
    arrow(4.5, 3.0, 4.55, 2.3, BLUE)
    arrow(4.5, 1.0, 4.55, 1.7, BLUE)
    arrow(5.05, 2.0, 5.4, 2.0)
    arrow(6.65, 2.0, 6.95, 2.0, ORANGE)
    arrow(7.6, 2.3, 7.9, 3.0, ORANGE)
    arrow(4.95, 3.3, 7.55, 3.3, BLUE)
    arrow(4.95, 0.7, 8.5, 3.0, BLUE, "angle,angleA=0,angleB=90,rad=6")
    axes.text(
        6.2, 3.42, "each channel of each split has its own weight", fontsize=7.5, ha="center", color=INK
    )
    return figure


def draw_dilation() -> Figure:
    """Draw which positions a 3x3 convolution reads after a stride of 2, and with dilation 2 instead."""
    figure = Figure(figsize=(9, 3.6))
    panels = (
        ("stride 2, then 3x3", 2, 1),
        ("stride 1, then 3x3", 1, 1),
        ("stride 1, then 3x3 with dilation 2", 1, 2),
    )
    for index, (title, stride, dilation) in enumerate(panels):
        axes = figure.add_axes((0.02 + index / 3, 0.03, 0.29, 0.82), xlim=(0, 9), ylim=(9, 0), aspect="equal")
        axes.axis("off")
        axes.set_title(title, fontsize=9, color=INK)
        step = stride * dilation
        read = {(4 + step * row, 4 + step * column) for row in (-1, 0, 1) for column in (-1, 0, 1)}
        for row in range(9):
            for column in range(9):
                color = "white"
                if (row, column) in read:
                    color = BLUE
                elif row % stride == 0 and column % stride == 0:
                    color = PALE
                axes.add_patch(Rectangle((column, row), 1, 1, fc=color, ec="#b9c2cc", lw=0.7))
        axes.add_patch(Rectangle((4, 4), 1, 1, fc="none", ec=ORANGE, lw=2.5))
    return figure


def draw_camvid_curves() -> Figure:
    """Draw the validation mIoU of ``experiment=camvid_imagenet``, with ImageNet weights and from scratch."""
    with (Path(__file__).parent / "camvid.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(6.5, 3.4), layout="constrained")
    axes = figure.add_subplot()
    labels = {"ImageNet": ("from ImageNet weights, three seeds", BLUE), "none": ("from scratch", ORANGE)}
    for weights, seed in dict.fromkeys((row["weights"], row["seed"]) for row in rows):
        same = [row for row in rows if (row["weights"], row["seed"]) == (weights, seed)]
        points = [(int(row["iteration"]), float(row["mIoU"])) for row in same]
        label, color = labels[weights]
        axes.plot(*zip(*points, strict=True), color=color, marker="o", ms=4, lw=1.2, alpha=0.8)
        if seed == "0":
            axes.text(1600, points[-1][1] - 6, label, color=color, ha="right", fontsize=8.5)
    axes.set(xlabel="iteration", ylabel="validation mIoU, %", xlim=(350, 1650))
    axes.grid(color=PALE)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


FIGURES = {
    "split_attention": draw_split_attention,
    "dilation": draw_dilation,
    "camvid_curves": draw_camvid_curves,
}


def main() -> None:
    """Write all figures."""
    with mpl.rc_context({"svg.hashsalt": "segkit", "svg.fonttype": "path"}):
        for name, draw in FIGURES.items():
            draw().savefig(IMAGES / f"{name}.svg", facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main()
