"""Images and masks unlike the rest: sizes, types, gray among color, brightness, no labels, repeated masks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from segkit.tools.doctor.findings import Case, Record, list_images

COMMON = 0.9  # share of the images that makes a size or type the usual one
OUTLIER = 5.0  # robust standard deviations from the median
MIN_SPREAD = 2.0  # gray levels, for sets of nearly equal images
MIN_COMPARED = 10  # images whose brightness is compared
PLAIN = 1.0  # gray levels: an image with a lower standard deviation shows nothing
MIN_LABELED = 0.01  # of the pixels
PROPERTIES: dict[str, Callable[[Record], str]] = {
    "unusual size": lambda record: f"{record.size[1]}x{record.size[0]}",
    "unusual type of values": lambda record: record.dtype,
    "unusual number of colors": lambda record: "gray" if record.is_gray else "color",
}


def find_unusual_images(records: Sequence[Record]) -> Iterator[Case]:
    """Yield cases of images and masks that differ from the others."""
    for record in records:
        name, (minimum, maximum, _, deviation) = record.key.name, record.values
        if deviation < PLAIN:
            yield Case("plain images", (record.key,), f"{name}: values {minimum:g} to {maximum:g}")
        labeled = record.pixels.sum() / np.prod(record.size)
        if labeled < MIN_LABELED:
            text = f"{name}: {labeled:.2%} of the pixels are labeled"
            yield Case("images without labels", (record.key,), text)
    for kind, value_of in PROPERTIES.items():
        counts = Counter(map(value_of, records))
        for usual in [value for value, count in counts.items() if count >= COMMON * len(records)]:
            for record in records:
                if value_of(record) != usual:
                    text = f"{record.key.name}: {value_of(record)}; most are {usual}"
                    yield Case(kind, (record.key,), text)
    if len(records) >= MIN_COMPARED:
        yield from _find_brightness(records)
    yield from _find_repeated_masks(records)


def _find_brightness(records: Sequence[Record]) -> Iterator[Case]:
    """Yield images whose mean or range of values is far from the others'."""
    values = np.array([record.values for record in records])
    _, usual_maximum, usual_mean, _ = np.median(values, axis=0)
    deviation = np.abs(values[:, 2] - usual_mean)
    is_far = deviation > OUTLIER * max(1.4826 * np.median(deviation), MIN_SPREAD)
    has_other_range = values[:, 1] * 10 < usual_maximum  # such as 0..1 among 0..255
    is_unusual = (is_far | has_other_range) & (values[:, 3] >= PLAIN)
    for i in np.argsort(-deviation):
        if is_unusual[i]:
            text = f"mean {values[i, 2]:.4g}, maximum {values[i, 1]:.4g}; the usual mean is {usual_mean:.4g}"
            yield Case("unusual values", (records[i].key,), f"{records[i].key.name}: {text}")


def _find_repeated_masks(records: Sequence[Record]) -> Iterator[Case]:
    """Yield different images with the same mask of several classes."""
    groups: dict[bytes, list[Record]] = defaultdict(list)
    for record in records:
        if (record.pixels > 0).sum() > 1:
            groups[record.mask_digest].append(record)
    for group in groups.values():
        if len({record.image_digest for record in group}) > 1:
            keys = tuple(record.key for record in group)
            yield Case("repeated masks", keys, list_images(keys))
