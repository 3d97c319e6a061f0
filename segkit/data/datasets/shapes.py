"""Generated scenes, to try segkit without a download: 9 classes of objects on textured ground.

Outline and texture of an object determine its class. Its color correlates with the outline, not with the
texture; size, position, rotation and light are independent of the class. Borders are not scored. A scene
is a function of (seed, split, index).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from segkit.config import NonNegativeInt, PositiveInt, Size
from segkit.data.label_map import load_builtin_label_map
from segkit.types import IGNORE_INDEX, Sample

THINGS = [  # outline and texture of classes 1, 2, ...
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
MAX_OVERLAP = 0.3  # an object that would hide others with a larger share of itself is left out


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
        crowd = label.size / min(self.size) ** 2  # objects per area are as in square scenes
        for _ in range(int(crowd * draw.integers(5, 10))):
            _add_thing(draw, image, label)
        image *= _draw_light(draw, self.size)[..., None]
        image += draw.normal(0, draw.uniform(2, 9), self.size).astype(np.float32)[..., None]
        return Sample(image.clip(0, 255).astype(np.uint8), label, self.names[index])


def _add_thing(draw: np.random.Generator, image: np.ndarray, label: np.ndarray) -> None:
    """Draw one random object in place, unless it would hide too much of others."""
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
    if (cover > 127)[below > 0].sum() > MAX_OVERLAP * (cover > 127).sum():
        return
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    x, y = x - np.float32(center[0]), y - np.float32(center[1])
    u = (x * np.cos(turn) + y * np.sin(turn)).astype(np.float32)
    v = (y * np.cos(turn) - x * np.sin(turn)).astype(np.float32)
    pattern = _draw_texture(texture, u, v, max(radius * draw.uniform(0.32, 0.42), 5.0))[..., None]
    first, second = _choose_two_colors(draw, HUE[outline])
    paint = first + pattern * (second - first)
    paint *= 1 + draw.uniform(-0.25, 0.25) * (u / radius)[..., None]  # shading
    alpha = cover[..., None].astype(np.float32) / 255
    window = image[y0:y1, x0:x1]
    window += alpha * (paint - window)
    below[cover > 127] = kind + 1
    cv2.polylines(below, contours, True, IGNORE_INDEX, 2, cv2.LINE_8, SHIFT)  # noqa: FBT003


def _outline_corners(outline: str, radius: float) -> np.ndarray:
    """Return corners (N, 2) about the origin."""
    if outline == "box":
        return radius * np.array([(-0.9, -0.75), (0.9, -0.75), (0.9, 0.75), (-0.9, 0.75)])
    if outline == "band":
        return radius * np.array([(-3.0, -0.4), (3.0, -0.4), (3.0, 0.4), (-3.0, 0.4)])
    points = {"triangle": 3, "star": 10}.get(outline, 32)
    angles = np.arange(points) * (2 * np.pi / points)
    length = np.full(points, {"triangle": 1.2}.get(outline, 1.0))
    if outline == "star":
        length = np.where(np.arange(points) % 2, 0.45, 1.15)
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1) * length[:, None]


def _draw_texture(texture: str, u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    """Return 0 for the first color, 1 for the second, along the axes of the object."""
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
    """Return a light and a dark color (2, 3), RGB, of nearly one hue."""
    hues, saturation = (hue + draw.integers(-10, 11, 2)) % 180, draw.integers(90, 230, 2)
    value = draw.permutation([draw.integers(190, 256), draw.integers(70, 130)])
    hsv = np.stack([hues, saturation, value], 1).astype(np.uint8)[None]
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0].astype(np.float32)


def _draw_ground(draw: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return a background (H, W, 3), float32: clouds of two muted colors with grain."""
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
    """Return a factor (H, W) about 1, brighter towards one corner."""
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
    """Return the scenes of a split; by default enough for a short training to see each once."""
    height, width = size if isinstance(size, Sequence) else (size, size)
    return Shapes(split, train_scenes if split == "train" else val_scenes, (height, width), seed)
