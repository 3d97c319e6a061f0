"""Line charts as images, drawn with OpenCV: no plotting library, no window, no font file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from segkit.drawing.overlays import GREY, INK, LINE, blank, legend, stack, text_width, write

Curve = Sequence[tuple[float, float]]
COLOURS = np.array(  # told apart by every eye: Okabe and Ito, without their yellow
    [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (0, 0, 0)],
    np.uint8,
)


def line_chart(curves: Mapping[str, Curve], *, title: str, width: int = 900, height: int = 340) -> np.ndarray:
    """Curves over one pair of axes, coloured in their order.

    Args:
        curves: by name, points (x, y) in the order of x; those that are not finite are left out.
        title: written above.
        width: of the image in pixels.
        height: of the image in pixels.
    """
    finite = [[(x, y) for x, y in curve if math.isfinite(y)] for curve in curves.values()]
    points = [point for curve in finite for point in curve] or [(0.0, 0.0)]
    across, up = (ticks(min(values), max(values)) for values in zip(*points, strict=True))
    labels = [f"{value:g}" for value in up]
    left, top, bottom = max(map(text_width, labels)) + 14, LINE + 12, height - LINE - 10
    canvas = blank(height, width)
    write(canvas, title, (left, LINE))

    def place(x: float, y: float) -> tuple[int, int]:
        return (
            round(left + (x - across[0]) / (across[-1] - across[0]) * (width - 24 - left)),
            round(bottom - (y - up[0]) / (up[-1] - up[0]) * (bottom - top)),
        )

    for value, label in zip(up, labels, strict=True):
        y = place(across[0], value)[1]
        cv2.line(canvas, (left, y), (width - 24, y), (228, 230, 233), 1)
        write(canvas, label, (left - 8 - text_width(label), y + 5))
    for value in across:
        x = place(value, up[0])[0]
        cv2.line(canvas, (x, bottom), (x, bottom + 4), GREY, 1)
        write(canvas, f"{value:g}", (x - text_width(f"{value:g}") // 2, bottom + LINE))
    cv2.line(canvas, (left, bottom), (width - 24, bottom), INK, 1)
    for index, curve in enumerate(finite):
        path = np.array([place(x, y) for x, y in curve], np.int32).reshape(-1, 1, 2)
        colour = COLOURS[index % len(COLOURS)].tolist()
        cv2.polylines(canvas, [path], isClosed=False, color=colour, thickness=2, lineType=cv2.LINE_AA)
        for x, y in path[:, 0].tolist() if len(path) <= 25 else []:
            cv2.circle(canvas, (x, y), 3, colour, cv2.FILLED, cv2.LINE_AA)
    return canvas


def charts(panels: Mapping[str, Mapping[str, Curve]]) -> np.ndarray:
    """Several charts below each other, with one legend; a curve has the same colour in all of them."""
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    drawn = [
        line_chart({name: curves.get(name, []) for name in names}, title=title)
        for title, curves in panels.items()
    ]
    colours = COLOURS[np.arange(len(names)) % len(COLOURS)]
    return stack(*drawn, legend(names, colours, width=drawn[0].shape[1]))


def ticks(low: float, high: float, *, most: int = 7) -> list[float]:
    """Round values, evenly spaced, that enclose ``low`` and ``high``."""
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / (most - 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]
