"""Classes that cannot be learned or distinguished: absent, rare, or with nearly equal names or colors."""

from __future__ import annotations

import difflib
import itertools
import re

import cv2
import numpy as np

from segkit.data.label_map import LabelMap, hex_color
from segkit.runtime.text import format_count
from segkit.tools.doctor.findings import Case, Finding, count_with_verb
from segkit.tools.doctor.scan import Scan

MIN_IMAGES = 10  # of the training split that contain a class
MIN_SHARE = 1e-5  # of its pixels
NEAR_COLOR = 8.0  # distance in CIELAB; 2.3 is just noticeable
NEAR_NAME = 0.9  # ratio of matching characters
MOST_SIMILAR = 20  # names or colors that are listed


def find_class_problems(scan: Scan) -> list[Finding]:
    """Return findings on classes that are absent from a split or rare in training."""
    names = next(iter(scan.datasets.values())).table.names
    findings = []
    if scan.images.keys() == {"train", "val"}:
        train, val = scan.images["train"], scan.images["val"]
        remedy = "Move images between the splits"
        absent = [Case((), names[k]) for k in np.flatnonzero((train == 0) & (val > 0))]
        text = f"{count_with_verb(len(absent), 'class')} only in validation, not training."
        findings.append(Finding("classes without training images", "serious", text, remedy, absent))
        absent = [Case((), names[k]) for k in np.flatnonzero((train > 0) & (val == 0))]
        text = f"{count_with_verb(len(absent), 'class')} only in training, not validation."
        findings.append(Finding("classes without validation images", "warning", text, remedy, absent))
    absent = [Case((), names[k]) for k in np.flatnonzero(sum(scan.images.values()) == 0)]
    text = f"{count_with_verb(len(absent), 'class')} of {len(names)} without a pixel."
    findings.append(Finding("classes without pixels", "warning", text, "Remove them or label them", absent))
    if "train" in scan.images:
        train, pixels = scan.images["train"], scan.pixels["train"]
        share = pixels / max(1, pixels.sum())
        is_rare = (train > 0) & ((train < min(MIN_IMAGES, len(scan.datasets["train"]))) | (share < MIN_SHARE))
        rare = [
            Case((), f"{names[k]}: in {format_count(int(train[k]), 'image')}, {share[k]:.4%} of the pixels")
            for k in np.flatnonzero(is_rare)
        ]
        count = count_with_verb(len(rare), "class")
        text = f"{count} in fewer than {MIN_IMAGES} training images, or in few pixels."
        remedy = "Label more of them, merge them with others, or use class weights (stats --weights)"
        findings.append(Finding("rare classes", "warning", text, remedy, rare))
    return findings


def find_similar_classes(table: LabelMap) -> list[Finding]:
    """Return findings on classes whose names or colors are nearly equal."""
    pairs = list(itertools.combinations(range(table.num_classes), 2))
    plain = [_simplify_name(name) for name in table.names]
    same_names = [(i, j) for i, j in pairs if _is_similar(plain[i], plain[j])]
    lab = cv2.cvtColor(table.colors[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    near = [(float(np.linalg.norm(lab[i] - lab[j])), i, j) for i, j in pairs]
    near = sorted(entry for entry in near if entry[0] < NEAR_COLOR)
    named = [f"{name} {hex_color(color)}" for name, color in zip(table.names, table.colors, strict=True)]
    return [
        Finding(
            "similar class names",
            "warning",
            f"{format_count(len(same_names), 'pair')} of nearly equal class names.",
            "If they mean the same, merge the classes; otherwise rename one",
            [Case((), f"{table.names[i]} and {table.names[j]}") for i, j in same_names[:MOST_SIMILAR]],
        ),
        Finding(
            "similar class colors",
            "note",
            f"{format_count(len(near), 'pair')} of class colors that look alike.",
            "Choose other colors",
            [Case((), f"{named[i]} and {named[j]}") for _, i, j in near[:MOST_SIMILAR]],
        ),
    ]


def _simplify_name(name: str) -> str:
    """Return a name in lower case, without separators and the plural."""
    return re.sub(r"[\W_]+", "", name.lower()).removesuffix("s")


def _is_similar(one: str, other: str) -> bool:
    if one == other:
        return True
    if min(len(one), len(other)) < 5 or re.sub(r"\d", "", one) == re.sub(r"\d", "", other):
        return False  # numbered classes, such as lane 1 and lane 2
    return difflib.SequenceMatcher(None, one, other).ratio() >= NEAR_NAME
