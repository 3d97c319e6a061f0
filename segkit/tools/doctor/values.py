"""Images and masks unlike the rest: sizes, types, gray among color, brightness, no labels, repeated masks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from segkit.runtime.text import format_count
from segkit.tools.doctor.findings import Case, Finding, Severity
from segkit.tools.doctor.records import Record
from segkit.tools.doctor.scan import Scan

COMMON = 0.9  # share of the images that makes a size or type the usual one
OUTLIER = 5.0  # robust standard deviations from the median
MIN_SPREAD = 2.0  # gray levels, for sets of nearly equal images
PLAIN = 1.0  # gray levels: an image with a lower standard deviation shows nothing
MIN_LABELED = 0.01  # of the pixels


def find_unusual_values(scan: Scan) -> list[Finding]:
    """Return findings on images and masks that differ from the others."""
    records = scan.records
    findings = [
        _find_unusual(records, "size", lambda record: f"{record.size[1]}x{record.size[0]}", "warning"),
        _find_unusual(records, "type of values", lambda record: record.dtype, "warning"),
        _find_unusual(records, "number of colors", lambda r: "gray" if r.is_gray else "color", "note"),
        _find_plain(records),
        _find_brightness(records),
        _find_unlabeled(records),
        _find_repeated_masks(records),
    ]
    return [finding for finding in findings if finding is not None]


def _find_unusual(
    records: Sequence[Record], what: str, value_of: Callable[[Record], str], severity: Severity
) -> Finding | None:
    """Return the images that lack a value that nearly all others have; None if there is no usual value."""
    counts = Counter(map(value_of, records))
    usual, number = counts.most_common(1)[0] if counts else ("", 0)
    if len(counts) < 2 or number < COMMON * len(records):
        return None
    cases = [Case((r.key,), f"{r.name}: {value_of(r)}") for r in records if value_of(r) != usual]
    text = f"{len(cases):,} of {len(records):,} images differ in {what}; the others are {usual}."
    return Finding(f"unusual {what}", severity, text, "Check where these images come from", cases)


def _find_plain(records: Sequence[Record]) -> Finding | None:
    cases = [
        Case((r.key,), f"{r.name}: values {r.values[0]:g} to {r.values[1]:g}")
        for r in records
        if r.values[3] < PLAIN
    ]
    if not cases:
        return None
    text = f"{format_count(len(cases), 'image')} of nearly one color."
    return Finding("plain images", "warning", text, "Leave them out, or repair the files", cases)


def _find_brightness(records: Sequence[Record]) -> Finding | None:
    """Return images whose mean or range of values is far from the others'."""
    if len(records) < 10:
        return None
    values = np.array([record.values for record in records])
    usual = np.median(values, axis=0)
    deviation = np.abs(values - usual)
    spread = np.maximum(1.4826 * np.median(deviation, axis=0), MIN_SPREAD)
    is_far = deviation[:, 2] / spread[2] > OUTLIER
    has_other_range = values[:, 1] * 10 < usual[1]  # such as 0..1 among 0..255
    order = np.argsort(-deviation[:, 2])
    cases = [
        Case((records[i].key,), f"{records[i].name}: mean {values[i, 2]:.4g}, most {values[i, 1]:.4g}")
        for i in order
        if (is_far[i] or has_other_range[i]) and values[i, 3] >= PLAIN
    ]
    if not cases:
        return None
    text = f"{format_count(len(cases), 'image')} with unusual values; the usual mean is {usual[2]:.4g}."
    return Finding("unusual values", "warning", text, "Check exposure, bit depth and value range", cases)


def _find_unlabeled(records: Sequence[Record]) -> Finding | None:
    found = sorted((r for r in records if r.labeled < MIN_LABELED), key=lambda r: r.labeled)
    cases = [Case((r.key,), f"{r.name}: {r.labeled:.2%} of the pixels are labeled") for r in found]
    if not cases:
        return None
    text = f"{format_count(len(cases), 'image')} without labels: all or nearly all pixels are ignored."
    severity: Severity = "warning"
    if len(cases) > len(records) // 10:
        severity = "serious"
    return Finding("images without labels", severity, text, "Label them, or leave them out", cases)


def _find_repeated_masks(records: Sequence[Record]) -> Finding | None:
    """Return different images with the same mask of several classes."""
    groups: dict[bytes, list[Record]] = defaultdict(list)
    for record in records:
        if record.classes > 1:
            groups[record.mask_digest].append(record)
    cases = []
    for group in groups.values():
        if len({record.image_digest for record in group}) > 1:
            names = ", ".join(record.name for record in group[:4]) + ", ..." * (len(group) > 4)
            cases.append(Case(tuple(record.key for record in group), names))
    if not cases:
        return None
    text = f"{format_count(len(cases), 'mask')} repeated for different images."
    return Finding("repeated masks", "warning", text, "Check that each image has its own mask", cases)
