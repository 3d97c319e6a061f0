"""Classes that cannot be learned or distinguished: absent, rare, or with nearly equal names or colors."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from segkit.data.label_map import LabelMap, hex_color
from segkit.runtime.text import format_count
from segkit.tools.doctor.findings import Case, Record

MIN_IMAGES = 10  # of the training split that contain a class
MIN_SHARE = 1e-5  # of its pixels
NEAR_COLOR = 8.0  # distance in CIELAB; 2.3 is just noticeable
NEAR_NAME = 0.9  # ratio of matching characters


def find_class_problems(records: Sequence[Record], names: Sequence[str]) -> Iterator[Case]:
    """Yield cases of classes that are absent from a split or rare in training."""
    splits = {record.key.split for record in records}
    counts = {split: np.array([r.pixels for r in records if r.key.split == split]) for split in splits}
    pixels = {split: of_images.sum(0) for split, of_images in counts.items()}
    images = {split: (of_images > 0).sum(0) for split, of_images in counts.items()}
    for k, name in enumerate(names):
        found = {split for split in splits if images[split][k]}
        if not found:
            yield Case("classes without pixels", (), name)
        elif found == {"val"} != splits:
            yield Case("classes without training images", (), name)
        elif found == {"train"} != splits:
            yield Case("classes without validation images", (), name)
        if "train" not in found:
            continue
        count, share = int(images["train"][k]), pixels["train"][k] / pixels["train"].sum()
        if count < min(MIN_IMAGES, len(counts["train"])) or share < MIN_SHARE:
            text = f"{name}: in {format_count(count, 'image')}, {share:.4%} of the pixels"
            yield Case("rare classes", (), text)


def find_similar_classes(table: LabelMap) -> Iterator[Case]:
    """Yield cases of classes whose names or colors are nearly equal."""
    names = table.names
    plain = [_simplify_name(name) for name in names]
    lab = cv2.cvtColor(table.colors[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    near = []
    for i, j in itertools.combinations(range(table.num_classes), 2):
        if _is_similar(plain[i], plain[j]):
            yield Case("similar class names", (), f"{names[i]} and {names[j]}")
        distance = float(np.linalg.norm(lab[i] - lab[j]))
        if distance < NEAR_COLOR:
            colors = [f"{names[k]} {hex_color(table.colors[k])}" for k in (i, j)]
            near.append((distance, Case("similar class colors", (), " and ".join(colors))))
    yield from (case for _, case in sorted(near))


def _simplify_name(name: str) -> str:
    """Return a name in lower case, without separators and the plural."""
    return re.sub(r"[\W_]+", "", name.lower()).removesuffix("s")


def _is_similar(one: str, other: str) -> bool:
    if one == other:
        return True
    if min(len(one), len(other)) < 5 or re.sub(r"\d", "", one) == re.sub(r"\d", "", other):
        return False  # numbered classes, such as lane 1 and lane 2
    return difflib.SequenceMatcher(None, one, other).ratio() >= NEAR_NAME
