"""Classes that cannot be learned or distinguished: absent, rare, or with nearly equal names or colors."""

from __future__ import annotations

import difflib
import itertools
import re

import cv2
import numpy as np

from segkit.data.label_map import LabelMap, hex_color
from segkit.runtime.text import format_count
from segkit.tools.doctor.findings import Case, Finding, Severity
from segkit.tools.doctor.scan import Scan

MIN_IMAGES = 10  # of the training split that contain a class
MIN_SHARE = 1e-5  # of its pixels
NEAR_COLOR = 8.0  # distance in CIELAB; 2.3 is just noticeable
NEAR_NAME = 0.9  # ratio of matching characters
MOST_SIMILAR = 20  # names or colors that are listed


def find_class_problems(scan: Scan) -> list[Finding]:
    """Return findings on classes that are absent from a split or rare in training."""
    findings = []
    table = next(iter(scan.datasets.values())).table
    names = table.names
    train, val = (scan.images.get(split) for split in ("train", "val"))
    pixels = scan.pixels.get("train")
    if train is not None and val is not None:
        lists: tuple[tuple[str, Severity, np.ndarray, str], ...] = (
            (
                "classes without training images",
                "serious",
                (train == 0) & (val > 0),
                "validation, not training",
            ),
            (
                "classes without validation images",
                "warning",
                (train > 0) & (val == 0),
                "training, not validation",
            ),
        )
        for kind, severity, is_absent, where in lists:
            if cases := [Case((), names[k]) for k in np.flatnonzero(is_absent)]:
                text = f"{_count_classes(len(cases))} only in {where}."
                findings.append(Finding(kind, severity, text, "Move images between the splits", cases))
    totals = sum(scan.images.values())
    if absent := [Case((), names[k]) for k in np.flatnonzero(totals == 0)]:
        text = f"{_count_classes(len(absent))} of {len(names)} without a pixel."
        findings.append(
            Finding("classes without pixels", "warning", text, "Remove them or label them", absent)
        )
    if train is not None and pixels is not None:
        share = pixels / max(1, pixels.sum())
        is_rare = (train > 0) & ((train < min(MIN_IMAGES, len(scan.datasets["train"]))) | (share < MIN_SHARE))
        rare = [
            Case((), f"{names[k]}: in {format_count(int(train[k]), 'image')}, {share[k]:.4%} of the pixels")
            for k in np.flatnonzero(is_rare)
        ]
        if rare:
            text = (
                f"{_count_classes(len(rare))} in fewer than {MIN_IMAGES} training images, or in few pixels."
            )
            remedy = "Label more of them, merge them with others, or use class weights (stats --weights)"
            findings.append(Finding("rare classes", "warning", text, remedy, rare))
    return findings


def _count_classes(number: int) -> str:
    if number == 1:
        return "1 class is"
    return f"{number:,} classes are"


def find_similar_classes(table: LabelMap) -> list[Finding]:
    """Return findings on classes whose names or colors are nearly equal."""
    findings = []
    pairs = list(itertools.combinations(range(table.num_classes), 2))
    plain = [_simplify_name(name) for name in table.names]
    same_names = [(i, j) for i, j in pairs if _is_similar(plain[i], plain[j])]
    if same_names:
        cases = [Case((), f"{table.names[i]} and {table.names[j]}") for i, j in same_names[:MOST_SIMILAR]]
        text = f"{format_count(len(same_names), 'pair')} of nearly equal class names."
        remedy = "If they mean the same, merge the classes; otherwise rename one"
        findings.append(Finding("similar class names", "warning", text, remedy, cases))
    lab = cv2.cvtColor(table.colors[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    near = [(float(np.linalg.norm(lab[i] - lab[j])), i, j) for i, j in pairs]
    near = sorted(entry for entry in near if entry[0] < NEAR_COLOR)
    if near:
        named = [f"{name} {hex_color(color)}" for name, color in zip(table.names, table.colors, strict=True)]
        cases = [Case((), f"{named[i]} and {named[j]}") for _, i, j in near[:MOST_SIMILAR]]
        text = f"{format_count(len(near), 'pair')} of class colors that look alike."
        findings.append(Finding("similar class colors", "note", text, "Choose other colors", cases))
    return findings


def _simplify_name(name: str) -> str:
    """Return a name in lower case, without separators and the plural."""
    return re.sub(r"[\W_]+", "", name.lower()).removesuffix("s")


def _is_similar(one: str, other: str) -> bool:
    if one == other:
        return True
    if min(len(one), len(other)) < 5 or re.sub(r"\d", "", one) == re.sub(r"\d", "", other):
        return False  # numbered classes, such as lane 1 and lane 2
    return difflib.SequenceMatcher(None, one, other).ratio() >= NEAR_NAME
