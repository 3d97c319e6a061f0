"""Procedural scenes, to try everything without a download: 9 kinds of things on textured ground.

A thing's outline and texture make its class. Its color hints at the outline and never at the texture; size,
place, turn and light tell nothing. Borders are not scored. Scenes are drawn when they are read, from (seed,
split, index) alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from segkit.config import NonNegativeInt, PositiveInt, Size
from segkit.data.label_map import load_builtin_label_map
from segkit.types import IGNORE_INDEX, Sample

THINGS = [  # outline and texture of the classes from 1 on
    ("disc", "plain"),
    ("disc", "dots"),
    ("ring", "plain"),
    ("triangle", "plain"),
    ("triangle", "stripes"),
    ("box", "plain"),
    ("box", "checks"),
    ("star", "plain"),
    ("band", "stripes"),
]
HUE = {"disc": 2, "ring": 24, "triangle": 58, "box": 108, "star": 136, "band": 163}  # of OpenCV's 180
SHIFT = 4  # fractional bits of the corners given to OpenCV
HIDDEN = 0.3  # a thing that would lie on others with more of itself is left out: what is seen can be told


class Shapes:
    """Scenes of one split."""

    def __init__(self, split: str, scenes: int, size: tuple[int, int], seed: int):
        self.name, self.table, self.on_error = "shapes", load_builtin_label_map("shapes"), "stop"
        self.size, self.key = size, (seed, 0 if split == "train" else 1)
        self.names = [f"{split}_{index:06d}" for index in range(scenes)]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Sample:
        """Draw one scene."""
        draw = np.random.default_rng((*self.key, index))
        image = _draw_ground(draw, self.size)  # (H, W, 3) float32, 0..255
        label = np.zeros(self.size, np.uint8)
        crowd = label.size / min(self.size) ** 2  # as many things to the area in scenes that are not square
        for _ in range(int(crowd * draw.integers(5, 10))):
            _add_thing(draw, image, label)
        image *= _draw_light(draw, self.size)[..., None]
        image += draw.normal(0, draw.uniform(2, 9), self.size).astype(np.float32)[..., None]
        return Sample(image.clip(0, 255).astype(np.uint8), label, self.names[index])


def _add_thing(draw: np.random.Generator, image: np.ndarray, label: np.ndarray) -> None:
    """Paint one thing over what is there, in place, unless it would hide too much."""
    height, width = label.shape
    kind = int(draw.integers(len(THINGS)))
    outline, texture = THINGS[kind]
    radius = draw.uniform(0.15, 0.27) * min(height, width)
    center, turn = draw.uniform(0.04, 0.96, 2) * (width, height), draw.uniform(0, 2 * np.pi)
    corners = (
        _outline_corners(outline, radius)
        @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        + center
    )
    x0, y0 = np.clip(corners.min(0).astype(int) - 2, 0, (width, height))
    x1, y1 = np.clip(corners.max(0).astype(int) + 3, 0, (width, height))
    if x1 <= x0 or y1 <= y0:
        return
    contours = [_to_fixed_point(corners - (x0, y0))]
    if outline == "ring":
        contours.append(_to_fixed_point((corners - center) * draw.uniform(0.4, 0.55) + center - (x0, y0)))
    cover = cv2.fillPoly(np.zeros((y1 - y0, x1 - x0), np.uint8), contours, 255, cv2.LINE_AA, SHIFT)
    below = label[y0:y1, x0:x1]
    if (cover > 127)[below > 0].sum() > HIDDEN * (cover > 127).sum():
        return
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    x, y = x - np.float32(center[0]), y - np.float32(center[1])
    u = (x * np.cos(turn) + y * np.sin(turn)).astype(np.float32)
    v = (y * np.cos(turn) - x * np.sin(turn)).astype(np.float32)
    pattern = _draw_texture(texture, u, v, max(radius * draw.uniform(0.32, 0.42), 5.0))[..., None]
    first, second = _choose_two_colors(draw, HUE[outline])
    paint = first + pattern * (second - first)
    paint *= 1 + draw.uniform(-0.25, 0.25) * (u / radius)[..., None]  # light on the thing
    alpha = cover[..., None].astype(np.float32) / 255
    window = image[y0:y1, x0:x1]
    window += alpha * (paint - window)
    below[cover > 127] = kind + 1
    cv2.polylines(below, contours, True, IGNORE_INDEX, 2, cv2.LINE_8, SHIFT)  # noqa: FBT003


def _outline_corners(outline: str, radius: float) -> np.ndarray:
    """(N, 2) corners about the origin."""
    if outline == "box":
        return radius * np.array([(-0.9, -0.75), (0.9, -0.75), (0.9, 0.75), (-0.9, 0.75)])
    if outline == "band":
        return radius * np.array([(-3.0, -0.4), (3.0, -0.4), (3.0, 0.4), (-3.0, 0.4)])
    points = {"triangle": 3, "star": 10}.get(outline, 32)
    angles = np.arange(points) * (2 * np.pi / points)
    length = (
        np.where(np.arange(points) % 2, 0.45, 1.15)
        if outline == "star"
        else 1.2
        if outline == "triangle"
        else 1.0
    )
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1) * np.reshape(length, (-1, 1))


def _draw_texture(texture: str, u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    """0 where the first color shows, 1 where the second does, along the axes of the thing."""
    if texture == "plain":
        return np.zeros_like(u)
    if texture == "stripes":
        return (np.sin(u * np.float32(2 * np.pi / period)) > 0).astype(np.float32)
    if texture == "checks":
        return (
            (np.sin(u * np.float32(np.pi / period)) > 0) ^ (np.sin(v * np.float32(np.pi / period)) > 0)
        ).astype(np.float32)
    wave = np.cos(u * np.float32(2 * np.pi / period)) + np.cos(v * np.float32(2 * np.pi / period))
    return (wave > 0.7).astype(np.float32)


def _choose_two_colors(draw: np.random.Generator, hue: int) -> np.ndarray:
    """(2, 3) RGB, one light and one dark, of about one hue."""
    hues, saturation = (hue + draw.integers(-10, 11, 2)) % 180, draw.integers(90, 230, 2)
    value = draw.permutation([draw.integers(190, 256), draw.integers(70, 130)])
    hsv = np.stack([hues, saturation, value], 1).astype(np.uint8)[None]
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0].astype(np.float32)


def _draw_ground(draw: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) float32: clouds of two muted colors, and grain as of sand or cloth."""
    clouds = draw.random((int(draw.integers(3, 9)), int(draw.integers(3, 9))), np.float32)
    clouds = cv2.resize(clouds, size[::-1], interpolation=cv2.INTER_CUBIC)[..., None]
    hsv = np.stack([draw.integers(0, 180, 2), draw.integers(10, 90, 2), draw.integers(80, 200, 2)], 1).astype(
        np.uint8
    )
    first, second = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0].astype(np.float32)
    grain = draw.normal(0, draw.uniform(2, 14), size).astype(np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), *draw.uniform(0.4, 1.6, 2))[..., None]
    return first + clouds * (second - first) + 2 * grain


def _draw_light(draw: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(H, W) factor about 1: brighter towards one corner."""
    corners = draw.uniform(0.7, 1.2, (2, 2)).astype(np.float32)
    return cv2.resize(corners, size[::-1], interpolation=cv2.INTER_LINEAR)


def _to_fixed_point(corners: np.ndarray) -> np.ndarray:
    return (corners * (1 << SHIFT)).round().astype(np.int32)


def build(
    split: str,
    *,
    size: Size = 128,
    train_scenes: PositiveInt = 100_000,
    val_scenes: PositiveInt = 200,
    seed: NonNegativeInt = 0,
) -> Shapes:
    """Scenes of the split; so many training scenes that a demonstration sees each only once."""
    height, width = size if isinstance(size, Sequence) else (size, size)
    return Shapes(split, train_scenes if split == "train" else val_scenes, (height, width), seed)
