"""What the doctor keeps of each image, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from segkit.runtime.text import format_count

Severity = Literal["serious", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")


class Key(NamedTuple):
    """An image: its split and its position in it."""

    split: str
    position: int


class Agreement(NamedTuple):
    """Agreement of one mask with its image."""

    near: float  # at offset zero, and one pixel around it
    best: float  # highest over all offsets
    offset: tuple[int, int]  # of the highest, (y, x) in pixels of the image: where the borders should be
    mirrored: float  # of the mirrored mask, near offset zero
    middle: float  # median over all offsets


class Record(NamedTuple):
    """Numbers of one image and its mask, which the checks compare."""

    key: Key
    name: str
    size: tuple[int, int]  # height, width
    dtype: str
    values: tuple[float, float, float, float]  # least, most, mean, standard deviation over all bands
    is_gray: bool
    descriptor: np.ndarray  # of ``copies.describe_image``
    image_digest: bytes  # of the pixels
    mask_digest: bytes  # of the class ids
    classes: int  # that occur in the mask
    labeled: float  # fraction of the pixels that are not ignored
    agreement: Agreement | None  # None: too few borders


class Case(NamedTuple):
    """One occurrence of a finding: the images concerned and a sentence on them."""

    images: tuple[Key, ...]
    text: str


@dataclass
class Finding:
    """One kind of problem with all its occurrences."""

    kind: str  # short, such as ``shifted masks``; the title on the page
    severity: Severity  # ``serious`` makes the command exit with 1
    text: str  # what was found, with numbers
    remedy: str
    cases: list[Case]  # the clearest first; without cases it is not reported

    def to_plain(self, names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Return the finding as the content of a JSON file; ``names`` are those of each split."""
        cases = []
        for case in self.cases:
            images = [{"split": key.split, "name": names[key.split][key.position]} for key in case.images]
            cases.append({"images": images, "text": case.text})
        return {**vars(self), "cases": cases}


def count_with_verb(number: int, noun: str) -> str:
    """Return a number with its noun and verb: ``1 image is``, ``2 images are``."""
    return f"{format_count(number, noun)} {'is' if number == 1 else 'are'}"


def select_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings with cases, serious ones first."""
    found = [finding for finding in findings if finding.cases]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
