"""Labeled shapes of an image, and their rasterization by pycocotools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segkit.runtime.extras import import_extra

MAX_COORDINATE = 1 << 20  # pixels; no image is as long


@dataclass
class Shape:
    """One object: the union of outlines (N, 2), or a mask (h, w) with its corner at ``place``."""

    label: str
    outlines: list[np.ndarray] = field(default_factory=list)
    mask: np.ndarray | None = None
    place: tuple[int, int] = (0, 0)  # top, left
    is_crowd: bool = False
    z_order: float = 0.0  # the highest of overlapping shapes is on top; of equal ones, the last


@dataclass
class LabeledImage:
    """Labeled shapes of one image."""

    name: str  # path below the folder of the images
    size: tuple[int, int] | None  # height, width
    shapes: list[Shape] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)  # shapes without an area, by kind
    file: Path | None = None  # the image, if the annotations have its path


@dataclass
class Annotations:
    """The content of the files of a label tool: classes and images."""

    folder: Path  # of the files
    attribute: str | None = None  # of VIA regions, that holds the class
    labels: dict[str, str] = field(default_factory=dict)  # in order, to #rrggbb or ""
    images: list[LabeledImage] = field(default_factory=list)


def ignore_id(highest: int) -> int:
    """Return the id of unscored pixels in masks with ids up to ``highest``: the largest of the type."""
    return int(np.iinfo(np.min_scalar_type(highest)).max)


def import_pycocotools() -> Any:
    """Return ``pycocotools.mask``; a ``ValueError`` explains how to install it."""
    return import_extra("pycocotools.mask", extra="detection", needed_by="importing labels")


def ellipse(x: float, y: float, rx: float, ry: float, *, degrees: float = 0.0) -> np.ndarray:
    """Return (180, 2) corners of an ellipse about (x, y), turned clockwise."""
    angles = np.arange(180) * (2 * np.pi / 180)
    corners = np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], 1)
    return rotate_points(corners, degrees, about=(x, y))


def box(left: float, top: float, right: float, bottom: float, *, degrees: float = 0.0) -> np.ndarray:
    """Return (4, 2) corners of a rectangle, turned clockwise about its center."""
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)
    return rotate_points(corners, degrees, about=((left + right) / 2, (top + bottom) / 2))


def rotate_points(points: np.ndarray, degrees: float, *, about: tuple[float, float]) -> np.ndarray:
    """Return points (N, 2), turned clockwise about a center."""
    if not degrees:
        return points
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))  # y points down
    return (points - about) @ np.array([(cos, sin), (-sin, cos)]) + about


def decode_runs(counts: str | bytes | Sequence[int], height: int, width: int) -> np.ndarray:
    """Return the mask (H, W) of COCO's run lengths, a list or packed into text; refuse others."""
    tools = import_pycocotools()
    try:
        if not isinstance(counts, str | bytes):
            if sum(counts) != height * width:
                raise ValueError
            runs = {"size": [height, width], "counts": list(counts)}
            counts = tools.frPyObjects(runs, height, width)["counts"]
        packed = counts.encode() if isinstance(counts, str) else counts
        mask = np.asarray(tools.decode({"size": [height, width], "counts": packed}))
        if tools.encode(np.asfortranarray(mask))["counts"] != packed:  # too few pixels
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"the run lengths do not make a mask of {width}x{height}") from error
    return mask.astype(bool)


def rasterize_shape(shape: Shape, height: int, width: int) -> np.ndarray:
    """Rasterize a shape to (H, W), clipped to the image; a ``ValueError`` refuses infinite coordinates."""
    area = np.zeros((height, width), bool)
    if shape.mask is not None:
        top, left = shape.place
        inside = shape.mask[max(0, -top) : max(0, height - top), max(0, -left) : max(0, width - left)]
        y, x = max(0, top), max(0, left)
        area[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    polygons = [outline for outline in shape.outlines if len(outline) > 2]
    if polygons:
        if not (np.abs(np.concatenate(polygons)) < MAX_COORDINATE).all():
            raise ValueError(f"coordinates of {shape.label} are out of range")
        tools = import_pycocotools()
        runs = tools.frPyObjects([outline.ravel().tolist() for outline in polygons], height, width)
        area |= tools.decode(tools.merge(runs)).astype(bool)
    return area


class MaskIds(NamedTuple):
    """Ids in masks: of each label, of pixels without a shape, and of pixels that are not scored."""

    labels: dict[str, int]
    background: int
    void: int

    def names(self) -> dict[int, str]:
        """Return the name of each id."""
        of_labels = {identity: label for label, identity in self.labels.items()}
        return {self.void: "not scored", self.background: "background", **of_labels}


def paint_mask(image: LabeledImage, ids: MaskIds) -> tuple[np.ndarray, Counter[tuple[str, str]]]:
    """Return the mask (H, W) of an image, and how many pixels are hidden by (label on top, label below).

    Crowds are below all other shapes and are not scored; shapes without id or pixels count as skipped.
    """
    assert image.size is not None
    names, hidden = ids.names() | {ids.void: "a crowd"}, Counter[tuple[str, str]]()
    mask = np.full(image.size, ids.background, np.min_scalar_type(max(names)))
    for shape in sorted(image.shapes, key=lambda shape: (not shape.is_crowd, shape.z_order)):
        if shape.label not in ids.labels:
            image.skipped[f"of {shape.label}"] += 1
            continue
        value = ids.void if shape.is_crowd else ids.labels[shape.label]
        area = rasterize_shape(shape, *image.size)
        if not area.any():
            image.skipped["without a pixel in the image"] += 1
        below, counts = np.unique(mask[area], return_counts=True)
        for under, pixels in zip(below.tolist(), counts.tolist(), strict=True):
            if under not in (ids.background, value):
                hidden[shape.label, names[under]] += pixels
        mask[area] = value
    return mask, hidden
