"""Images and masks unlike the rest: sizes, types, gray among color, brightness, no labels, repeated masks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from segkit.runtime.text import format_count
from segkit.tools.doctor.findings import Case, Finding, Record, Severity

COMMON = 0.9  # share of the images that makes a size or type the usual one
OUTLIER = 5.0  # robust standard deviations from the median
MIN_SPREAD = 2.0  # gray levels, for sets of nearly equal images
PLAIN = 1.0  # gray levels: an image with a lower standard deviation shows nothing
MIN_LABELED = 0.01  # of the pixels


def find_unusual_values(records: Sequence[Record]) -> list[Finding]:
    """Return findings on images and masks that differ from the others."""
    plain = [record for record in records if record.values[3] < PLAIN]
    cases = [Case((r.key,), f"{r.name}: values {r.values[0]:g} to {r.values[1]:g}") for r in plain]
    text = f"{format_count(len(plain), 'image')} of nearly one color."
    return [
        _find_unusual(records, "size", lambda r: f"{r.size[1]}x{r.size[0]}", "warning"),
        _find_unusual(records, "type of values", lambda r: r.dtype, "warning"),
        _find_unusual(records, "number of colors", lambda r: "gray" if r.is_gray else "color", "note"),
        Finding("plain images", "warning", text, "Leave them out, or repair the files", cases),
        _find_brightness(records),
        _find_unlabeled(records),
        _find_repeated_masks(records),
    ]


def _find_unusual(
    records: Sequence[Record], what: str, value_of: Callable[[Record], str], severity: Severity
) -> Finding:
    """Return the images that lack a value that nearly all others have; none if there is no usual value."""
    counts = Counter(map(value_of, records))
    usual, number = counts.most_common(1)[0] if counts else ("", 0)
    cases = []
    if number >= COMMON * len(records):
        cases = [Case((r.key,), f"{r.name}: {value_of(r)}") for r in records if value_of(r) != usual]
    text = f"{len(cases):,} of {len(records):,} images differ in {what}; the others are {usual}."
    return Finding(f"unusual {what}", severity, text, "Check where these images come from", cases)


def _find_brightness(records: Sequence[Record]) -> Finding:
    """Return images whose mean or range of values is far from the others'."""
    cases, usual_mean = [], 0.0
    if len(records) >= 10:
        values = np.array([record.values for record in records])
        _, usual_most, usual_mean, _ = np.median(values, axis=0)
        deviation = np.abs(values[:, 2] - usual_mean)
        is_far = deviation > OUTLIER * max(1.4826 * np.median(deviation), MIN_SPREAD)
        has_other_range = values[:, 1] * 10 < usual_most  # such as 0..1 among 0..255
        is_unusual = (is_far | has_other_range) & (values[:, 3] >= PLAIN)
        for i in np.argsort(-deviation):
            if is_unusual[i]:
                text = f"{records[i].name}: mean {values[i, 2]:.4g}, most {values[i, 1]:.4g}"
                cases.append(Case((records[i].key,), text))
    text = f"{format_count(len(cases), 'image')} with unusual values; the usual mean is {usual_mean:.4g}."
    return Finding("unusual values", "warning", text, "Check exposure, bit depth and value range", cases)


def _find_unlabeled(records: Sequence[Record]) -> Finding:
    found = sorted((r for r in records if r.labeled < MIN_LABELED), key=lambda r: r.labeled)
    cases = [Case((r.key,), f"{r.name}: {r.labeled:.2%} of the pixels are labeled") for r in found]
    text = f"{format_count(len(cases), 'image')} without labels: all or nearly all pixels are ignored."
    severity: Severity = "warning"
    if len(cases) > len(records) // 10:
        severity = "serious"
    return Finding("images without labels", severity, text, "Label them, or leave them out", cases)


def _find_repeated_masks(records: Sequence[Record]) -> Finding:
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
    text = f"{format_count(len(cases), 'mask')} repeated for different images."
    return Finding("repeated masks", "warning", text, "Check that each image has its own mask", cases)
