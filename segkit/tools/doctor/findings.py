"""What the doctor keeps of each image, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

Severity = Literal["serious", "warning", "note"]  # serious findings make the command exit with 1


class Key(NamedTuple):
    """An image: its split, its position in it and its name."""

    split: str
    position: int
    name: str


class Agreement(NamedTuple):
    """Agreement of one mask with its image."""

    near: float  # at offset zero, and one pixel around it
    best: float  # highest over all offsets
    offset: tuple[int, int]  # of the highest, (y, x) in pixels of the image: where the borders should be
    mirrored: float  # of the mirrored mask, near offset zero
    middle: float  # median over all offsets


class Record(NamedTuple):
    """Numbers of one image and its mask, which the checks compare; K classes."""

    key: Key
    size: tuple[int, int]  # height, width
    dtype: str
    values: tuple[float, float, float, float]  # minimum, maximum, mean of all bands; deviation of gray
    is_gray: bool
    descriptor: np.ndarray  # of ``copies.describe_image``
    image_digest: bytes  # of the pixels
    mask_digest: bytes  # of the class ids
    pixels: np.ndarray  # (K,) of each class
    agreement: Agreement | None  # None: too few borders


class Case(NamedTuple):
    """One occurrence of a problem: the images concerned and a sentence on them."""

    kind: str  # key of ``KINDS``
    images: tuple[Key, ...]
    text: str


KINDS: dict[str, tuple[Severity, str]] = {  # severity and remedy, in the order of the page
    "unusable files": ("serious", "Repair or remove them"),
    "copies in both splits": ("serious", "Scores are too high; leave out with data.exclude=exclude.txt"),
    "sequences in both splits": ("serious", "Scores are too high; split by video or scene, not by image"),
    "copies with different masks": ("serious", "Keep the mask that is right"),
    "shifted masks": ("serious", "Move the masks by that offset"),
    "mirrored masks": ("serious", "Mirror the masks back"),
    "classes without training images": ("serious", "Move images between the splits"),
    "exchanged classes": ("serious", "Correct these masks, which the model finds likelier when exchanged"),
    "moved labels": ("serious", "Move these masks, which the model finds likelier when moved"),
    "suspicious regions": ("warning", "Correct them where the model is right; see --export"),
    "copies in one split": ("warning", "Keep one of each; exclude.txt lists the others of training"),
    "videos in both splits": ("warning", "Prefer other videos for validation: these share places and light"),
    "masks that do not fit": ("warning", "Check that they belong to their images, whose edges they cross"),
    "repeated masks": ("warning", "Check that each image has its own mask"),
    "images without labels": ("warning", "Label them, or leave them out"),
    "plain images": ("warning", "Leave them out, or repair the files"),
    "unusual values": ("warning", "Check exposure, bit depth and value range"),
    "unusual size": ("warning", "Check where these images come from"),
    "unusual type of values": ("warning", "Check where these images come from"),
    "classes without validation images": ("warning", "Move images between the splits"),
    "classes without pixels": ("warning", "Remove them or label them"),
    "rare classes": ("warning", "Label more, merge them with others, or use class weights (stats --weights)"),
    "similar class names": ("warning", "Merge the classes if they mean the same; otherwise rename one"),
    "similar class colors": ("note", "Choose other colors"),
    "unusual number of colors": ("note", "Check where these images come from"),
    "mixed-up classes": ("note", "Agree on where each of them ends"),
}


class Finding(NamedTuple):
    """One kind of problem with all its cases, the clearest first."""

    kind: str
    severity: Severity
    remedy: str
    cases: list[Case]

    def to_plain(self) -> dict[str, Any]:
        """Return the content of a JSON file."""
        cases = []
        for case in self.cases:
            images = [{"split": key.split, "name": key.name} for key in case.images]
            cases.append({"images": images, "text": case.text})
        return {**self._asdict(), "cases": cases}


def group_cases(cases: Sequence[Case]) -> list[Finding]:
    """Return a finding for each kind that has cases."""
    groups: dict[str, list[Case]] = {kind: [] for kind in KINDS}
    for case in cases:
        groups[case.kind].append(case)
    return [Finding(kind, *KINDS[kind], found) for kind, found in groups.items() if found]


def list_images(keys: Sequence[Key]) -> str:
    """Return the first images as text: ``train: a, val: b and 3 more``."""
    text = ", ".join(f"{key.split}: {key.name}" for key in keys[:4])
    if len(keys) > 4:
        text += f" and {len(keys) - 4} more"
    return text
