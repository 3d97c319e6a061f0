"""What masks hold, as a class table to start from; and instance ids as class ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segkit.data.label_map import Entry, LabelMap, automatic_color
from segkit.data.reading import read_mask
from segkit.tools.import_labels.shapes import ignore_id

MOST = 256  # different values from which masks are no class masks: instance ids, or a photograph


def count_mask_values(masks: Sequence[Path]) -> Counter[int | tuple[int, ...]]:
    """Pixels of each id, or of each color, over all masks.

    Raises:
        ValueError: a mask cannot be read, or some hold ids and others colors.
    """
    counts: Counter[int | tuple[int, ...]] = Counter()
    for file in masks:
        mask = read_mask(file, "any")
        flat = mask.reshape(-1, 3) if mask.ndim == 3 else mask.ravel()
        found, pixels = np.unique(flat, axis=0, return_counts=True)
        keys = [tuple(value) if isinstance(value, list) else value for value in found.tolist()]
        if counts and isinstance(keys[0], tuple) != isinstance(next(iter(counts)), tuple):
            raise ValueError(
                f"{file}: holds {'colors' if mask.ndim == 3 else 'ids'}, the masks before it do not"
            )
        counts.update(dict(zip(keys, pixels.tolist(), strict=True)))
    return counts


def propose_label_map(values: Counter[int | tuple[int, ...]]) -> LabelMap:
    """Return a class table for the values in masks, with names to be replaced.

    0 and another value alone are background and object; 255 beside several others is not scored, where ids go
    further 65535, as is white beside several other colors.

    Raises:
        ValueError: there are too many values for classes.
    """
    if len(values) > MOST:
        raise ValueError(
            f"the masks hold {len(values)} different values: these are instance ids (--divide 1000 makes "
            "classes of ids such as class * 1000 + instance), no masks, or classes to be told apart by a "
            "classes.csv of your own, a line id,name for each"
        )
    keys = sorted(values)
    void = ignore_id(keys[-1]) if isinstance(keys[-1], int) else (255, 255, 255)
    entries = []
    for number, key in enumerate(keys):
        color = key if isinstance(key, tuple) else automatic_color(key)
        identity = number if isinstance(key, tuple) else key
        ignore = len(keys) > 2 and key == void
        name = "not scored" if ignore else f"class {identity}"
        if len(keys) == 2 and key in (0, (0, 0, 0)):
            name = "background"
        elif len(keys) == 2 and keys[0] in (0, (0, 0, 0)):
            name = "object"
        red, green, blue = color
        entries.append(Entry(identity, name, (red, green, blue), ignore))
    return LabelMap("folder", tuple(entries))


def split_instance_ids(mask: np.ndarray, by: int) -> np.ndarray:
    """Instance ids (H, W) as class ids: ``class * by + instance`` as class, ids below ``by`` as they are."""
    return np.where(mask >= by, mask // by, mask).astype(mask.dtype)
