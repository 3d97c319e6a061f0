"""Objects as one mask: who lies on top, what is hidden, what sticks out."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import cv2
import numpy as np

from segkit.data.importing import polygons
from segkit.data.importing.annotations import Annotated, Thing

BACKGROUND = 0


def unscored(highest: int) -> int:
    """The value of what is not scored in masks that hold ids up to so many: the greatest of their type."""
    return int(np.iinfo(np.min_scalar_type(highest)).max)


class Painted(NamedTuple):
    """A mask (H, W) of raw ids, uint8 or uint16, and what happened while it was painted."""

    mask: np.ndarray
    hidden: Counter[tuple[str, str]]  # pixels by (label on top, label below it)
    outside: Counter[str]  # things: wholly, partly
    holes: int  # in masks and run lengths
    crowds: int


def paint(image: Annotated, ids: dict[str, int]) -> Painted:
    """The mask of an image whose size is known; labels without an id are left out, crowds not scored."""
    assert image.size is not None
    height, width = image.size
    owner = np.zeros(image.size, np.int32)  # number of the thing on top, from 1
    hidden, outside, holes, crowds = Counter[tuple[str, str]](), Counter[str](), 0, 0
    wanted = [thing for thing in image.things if thing.label in ids]
    things = sorted(wanted, key=lambda thing: (not thing.crowd, thing.height))  # crowds are the ground
    crowd = unscored(len(ids) + 1)
    values = np.zeros(len(things) + 1, np.min_scalar_type(crowd))
    for number, thing in enumerate(things, 1):
        area, sticks_out = area_of(thing, height, width)
        holes += 0 if thing.mask is None else holes_of(thing.mask)
        crowds += thing.crowd
        values[number] = crowd if thing.crowd else ids[thing.label]
        if not area.any():
            outside["wholly (or without one pixel)"] += 1
        elif sticks_out:
            outside["partly"] += 1
        below, counts = np.unique(owner[area], return_counts=True)
        for loser, pixels in zip(below.tolist(), counts.tolist(), strict=True):
            if loser and values[loser] != values[number]:
                under = "a crowd" if things[loser - 1].crowd else things[loser - 1].label
                hidden[thing.label, under] += pixels
        owner[area] = number
    return Painted(values[owner], hidden, outside, holes, crowds)


def area_of(thing: Thing, height: int, width: int) -> tuple[np.ndarray, bool]:
    """The pixels of a thing (H, W) within the image, and whether it goes beyond."""
    area = np.zeros((height, width), bool)
    if thing.mask is not None:
        top, left = thing.place
        rows, columns = thing.mask.shape
        inside = thing.mask[max(0, -top) : height - top, max(0, -left) : width - left]
        y, x = max(0, top), max(0, left)
        area[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
        return area, min(top, left) < 0 or top + rows > height or left + columns > width
    beyond = False
    for outline in thing.outlines:
        area |= polygons.filled(outline, height, width)
        beyond |= bool(outline.min() < -0.5 or (outline.max(0) > (width + 0.5, height + 0.5)).any())
    return area, beyond


def holes_of(mask: np.ndarray) -> int:
    """Parts of the background that the thing surrounds."""
    _, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[-2:]
    return 0 if hierarchy is None else int((hierarchy[0, :, 3] >= 0).sum())
