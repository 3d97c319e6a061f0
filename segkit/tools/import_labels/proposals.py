"""Propose a class table for masks, and convert instance ids to class ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segkit.data.label_map import Entry, LabelMap, automatic_color
from segkit.data.reading import read_mask
from segkit.tools.import_labels.shapes import ignore_id

COLORS_OR_IDS = {2: "contains ids", 3: "contains colors"}
MAX_VALUES = 256  # masks with more are instance masks or photographs


def count_mask_values(masks: Sequence[Path]) -> Counter[int | tuple[int, ...]]:
    """Return the pixels of each id, or of each color, over all masks; mixed ids and colors are refused."""
    counts: Counter[int | tuple[int, ...]] = Counter()
    for file in masks:
        mask = read_mask(file, "any")
        flat = mask.reshape(-1, 3) if mask.ndim == 3 else mask.ravel()
        values, pixels = np.unique(flat, axis=0, return_counts=True)
        keys = [tuple(value) if isinstance(value, list) else value for value in values.tolist()]
        if counts and isinstance(keys[0], tuple) != isinstance(next(iter(counts)), tuple):
            raise ValueError(f"{file}: {COLORS_OR_IDS[mask.ndim]}, unlike the masks before it")
        counts.update(dict(zip(keys, pixels.tolist(), strict=True)))
    return counts


def propose_label_map(values: Counter[int | tuple[int, ...]]) -> LabelMap:
    """Return a label map of mask values, at most ``MAX_VALUES``, with placeholder names.

    0 and one other value are background and object. With more values, 255 (65535 for 16-bit ids) and white
    are not scored.
    """
    if len(values) > MAX_VALUES:
        raise ValueError(
            f"the masks contain {len(values)} different values. If these are instance ids such as "
            "class * 1000 + instance, add --divide 1000; if they are classes, write them all in classes.csv"
        )
    keys = sorted(values)
    is_binary = len(keys) == 2 and keys[0] in (0, (0, 0, 0))
    void: int | tuple[int, ...] = (255, 255, 255)
    if isinstance(keys[-1], int):
        void = ignore_id(keys[-1])
    entries = []
    for number, key in enumerate(keys):
        identity, (red, green, blue) = (
            (number, key) if isinstance(key, tuple) else (key, automatic_color(key))
        )
        ignore = len(keys) > 2 and key == void
        name = f"class {identity}"
        if ignore:
            name = "not scored"
        elif is_binary:
            name = ("background", "object")[number]
        entries.append(Entry(identity, name, (red, green, blue), ignore))
    return LabelMap("folder", tuple(entries))


def split_instance_ids(mask: np.ndarray, by: int) -> np.ndarray:
    """Convert ids (H, W) of ``class * by + instance`` to classes; ids below ``by`` stay."""
    return np.where(mask >= by, mask // by, mask).astype(mask.dtype)
