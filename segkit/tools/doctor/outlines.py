"""Polygons of the regions of a label that give the same label when they are painted in order."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


class Outline(NamedTuple):
    """A filled polygon of one class."""

    class_id: int
    points: np.ndarray  # (N, 2) x and y of pixel corners


def trace_label(label: np.ndarray, *, min_area: int = 1) -> list[Outline]:
    """Return the outlines of all connected regions of a label (H, W), in the order to paint them.

    Holes are not cut out: the regions in them are smaller, and so come later. A polygon follows the corners
    of pixels, so that pycocotools paints exactly the region.

    Args:
        label: of class ids; each value is traced.
        min_area: pixels; smaller regions are left out.
    """
    found: list[tuple[int, Outline]] = []
    for class_id in np.unique(label).tolist():
        mask = (label == class_id).astype(np.uint8)
        number, components, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
        for component in range(1, number):
            x, y, width, height, area = (int(value) for value in boxes[component])
            if area < min_area:
                continue
            inside = np.asarray(components[y : y + height, x : x + width] == component, np.uint8)
            points = trace_region(inside)
            filled = cv2.contourArea(points.astype(np.int32).reshape(-1, 1, 2))
            found.append((int(filled), Outline(class_id, points + np.array([x, y]))))
    return [outline for _, outline in sorted(found, key=lambda entry: -entry[0])]


def trace_region(mask: np.ndarray) -> np.ndarray:
    """Return the outer outline (N, 2) of a connected region (H, W) along the corners of its pixels.

    OpenCV traces the centers of pixels. At twice the size, centers 2x and 2x + 1 of the two halves of a pixel
    are next to its corners x and x + 1.
    """
    double = np.repeat(np.repeat(mask, 2, axis=0), 2, axis=1)
    contours = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    assert len(contours) == 1
    points = (contours[0][:, 0].astype(np.int64) + 1) // 2
    points = points[(points != np.roll(points, 1, axis=0)).any(1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    reverses = (before * after).sum(1) < 0
    return points[turns | reverses]
