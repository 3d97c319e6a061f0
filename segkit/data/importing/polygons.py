"""Outlines and run lengths as masks, pixel for pixel as COCO's own code has them (``maskApi.c``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SCALE = 5  # COCO follows an outline on a grid of fifths of a pixel


def filled(outline: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask (H, W) of a polygon: pixels between the places where its outline crosses their column.

    Args:
        outline: (N, 2) x and y of the corners, in pixels from the upper left corner of the image.
        height: of the mask; what lies outside is cut off.
        width: of the mask.
    """
    corners = (SCALE * np.asarray(outline, np.float64) + 0.5).astype(np.int64)  # towards 0, as C does
    points = [
        _line(a, b) for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True) if (a != b).any()
    ]
    turns = np.zeros(height * width + 1, np.int64)
    if points:
        u, v = np.concatenate(points).T
        moved = np.flatnonzero(u[1:] != u[:-1])
        x = (np.minimum(u[moved], u[moved + 1]) + 0.5) / SCALE - 0.5
        y = np.ceil(np.clip((np.minimum(v[moved], v[moved + 1]) + 0.5) / SCALE - 0.5, 0, height))
        inside = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
        np.add.at(turns, (x[inside] * height + y[inside]).astype(np.int64), 1)
    return (np.cumsum(turns[:-1]) % 2).astype(bool).reshape(width, height).T


def _line(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(N, 2) points of an edge, both ends included, rounded as COCO does: always from the lesser end."""
    (dx, dy) = np.abs(end - start)
    along = 0 if dx >= dy else 1
    flip = start[along] > end[along]
    first, last = (end, start) if flip else (start, end)
    steps = np.arange(max(dx, dy) + 1)
    slope = (last[1 - along] - first[1 - along]) / max(dx, dy)
    points = np.empty((len(steps), 2), np.int64)
    points[:, along] = first[along] + steps
    points[:, 1 - along] = (first[1 - along] + slope * steps + 0.5).astype(np.int64)
    return points[::-1] if flip else points


def from_runs(counts: str | bytes | Sequence[int], height: int, width: int) -> np.ndarray:
    """The mask (H, W) of COCO's run lengths, as a list or packed into text; runs go down the columns.

    Raises:
        ValueError: the runs do not make a mask of this size.
    """
    runs = _unpacked(counts) if isinstance(counts, str | bytes) else [int(count) for count in counts]
    if any(count < 0 for count in runs) or sum(runs) != height * width:
        raise ValueError(f"runs of {sum(runs)} pixels for a mask of {width}x{height}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _unpacked(text: str | bytes) -> list[int]:
    """Six bits a letter: five of a number, one that tells whether more follow; from the third on, changes."""
    letters = text.encode("latin-1", "replace") if isinstance(text, str) else text
    runs: list[int] = []
    value = shift = 0
    for letter in letters:
        bits = letter - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("runs in letters that COCO does not use")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def ellipse(x: float, y: float, rx: float, ry: float, *, degrees: float = 0.0) -> np.ndarray:
    """(N, 2) corners of an ellipse about (x, y), turned clockwise as images are looked at."""
    angles = np.arange(180) * (2 * np.pi / 180)
    return turned(np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], 1), degrees, about=(x, y))


def box(left: float, top: float, right: float, bottom: float, *, degrees: float = 0.0) -> np.ndarray:
    """(4, 2) corners of a rectangle, turned clockwise about its centre."""
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)
    return turned(corners, degrees, about=((left + right) / 2, (top + bottom) / 2))


def turned(points: np.ndarray, degrees: float, *, about: tuple[float, float]) -> np.ndarray:
    """Points (N, 2) turned clockwise, y pointing down."""
    if not degrees:
        return points
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (points - about) @ np.array([(cos, sin), (-sin, cos)]) + about
