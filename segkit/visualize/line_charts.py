"""Line charts, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Curve = Sequence[tuple[float, float]]


def draw_line_charts(panels: Mapping[str, Mapping[str, Curve]]) -> np.ndarray:
    """Draw charts in a column; a curve has the same color in all of them.

    Args:
        panels: curves by name, by title of the chart; points (x, y) that are not finite leave a gap.

    Returns:
        An image (H, W, 3) uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes half a second
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    figure = Figure(figsize=(9, 3.6 * len(panels)), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, (title, curves) in zip(grid, panels.items(), strict=True):
        for number, name in enumerate(names):
            points = curves.get(name, [])
            marker = "o" if len(points) <= 25 else ""
            x, y = [point[0] for point in points], [point[1] for point in points]
            axes.plot(x, y, "-", marker=marker, markersize=4, color=f"C{number % 10}", label=name)
        axes.set_title(title)
        axes.grid(alpha=0.3)
    figure.legend(handles=grid[0].lines, loc="outside lower center", ncols=2)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
