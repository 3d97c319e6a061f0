"""Agreement of mask borders with image edges: finds masks that are shifted, mirrored or of another image.

The agreement at an offset is the mean rank (0..1) of the gradient magnitude under the borders of the mask,
moved by the offset. It is 0.5 for borders that have nothing to do with the image. A mask fits its image if
the agreement near offset zero is the highest. This is template matching by normalized ranks; ranks make
images of any contrast comparable.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from segkit.tools.doctor.findings import Case, Finding, findings_with_cases
from segkit.tools.doctor.records import Agreement, Record
from segkit.types import label_ignore_index

SIDE = 240  # pixels of the longer side at which borders and edges are compared
REACH = 20  # pixels at that size: the largest offset
GAP = 4  # pixels at that size: ignored pixels up to this far from others belong to a border
MIN_BORDER = 30  # pixels at that size
MIN_GAIN = (
    0.04  # of the best offset over none; CamVid's own masks gain at most 0.03, shifted ones at least 0.05
)
MIN_CONTRAST = 0.06  # of the best offset over the median of all offsets
KINDS = ("shifted masks", "mirrored masks", "masks that do not fit")
LOW_CONTRAST = 0.4  # of the median over the images: masks of other images are below


def measure_agreement(gray: np.ndarray, label: np.ndarray) -> Agreement | None:
    """Return the agreement of a label (H, W) with its image (H, W); None if it has too few borders."""
    scale = min(1.0, SIDE / max(label.shape))
    width, height = (max(1, round(side * scale)) for side in label.shape[::-1])
    if min(height, width) <= 3 * REACH:
        return None
    small = cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA)
    borders = find_borders(
        fill_gaps(cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))
    )
    scores = _agreement_map(_rank_edges(small), borders)
    mirrored = _agreement_map(_rank_edges(small), np.ascontiguousarray(borders[:, ::-1]))
    if scores is None or mirrored is None:
        return None
    around = slice(REACH - 1, REACH + 2)
    y, x = np.unravel_index(scores.argmax(), scores.shape)
    return Agreement(
        near=float(scores[around, around].max()),
        best=float(scores.max()),
        offset=(round((int(y) - REACH) / scale), round((int(x) - REACH) / scale)),
        mirrored=float(mirrored[around, around].max()),
        middle=float(np.median(scores)),
    )


def fill_gaps(label: np.ndarray) -> np.ndarray:
    """Return the label with ignored pixels near others replaced by the nearest, as borders may be ignored."""
    is_ignored = label == label_ignore_index(label)
    if not is_ignored.any() or is_ignored.all():
        return label
    distance, nearest = cv2.distanceTransformWithLabels(
        is_ignored.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_3, labelType=cv2.DIST_LABEL_PIXEL
    )
    values = np.zeros(nearest.max() + 1, label.dtype)
    values[nearest[~is_ignored]] = label[~is_ignored]
    return np.where(distance <= GAP, values[nearest], label)


def find_borders(label: np.ndarray) -> np.ndarray:
    """Return where two classes meet, (H, W) float32 of 0 and 1; borders of ignored pixels do not count."""
    ignored, borders = label_ignore_index(label), np.zeros(label.shape, np.float32)
    is_labeled = label != ignored
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        meets = (label[one] != label[other]) & is_labeled[one] & is_labeled[other]
        borders[one][meets] = 1
        borders[other][meets] = 1
    return borders


def _rank_edges(gray: np.ndarray) -> np.ndarray:
    """Return the rank of the gradient magnitude of each pixel, 0..1."""
    values = gray.astype(np.float32)
    edges = np.hypot(cv2.Sobel(values, cv2.CV_32F, 1, 0), cv2.Sobel(values, cv2.CV_32F, 0, 1)).ravel()
    ranks = np.empty(edges.size, np.float32)
    ranks[np.argsort(edges)] = np.linspace(0, 1, edges.size, dtype=np.float32)
    return ranks.reshape(gray.shape)


def _agreement_map(ranks: np.ndarray, borders: np.ndarray) -> np.ndarray | None:
    """Return the agreement at all offsets up to ``REACH``, (2 REACH + 1, 2 REACH + 1)."""
    inner = borders[REACH:-REACH, REACH:-REACH]
    count = inner.sum()
    if count < MIN_BORDER:
        return None
    return cv2.matchTemplate(ranks, np.ascontiguousarray(inner), cv2.TM_CCORR) / count


def find_misfits(records: Sequence[Record]) -> list[Finding]:
    """Return findings on masks that are shifted, mirrored, or do not belong to their image."""
    shifted: list[tuple[float, Case]] = []
    mirrored: list[tuple[float, Case]] = []
    foreign: list[tuple[float, Case]] = []
    measured = [(record, record.agreement) for record in records if record.agreement is not None]
    if not measured:
        return []
    usual = float(np.median([max(a.best, a.mirrored) - a.middle for _, a in measured]))
    if usual < MIN_CONTRAST:  # borders do not follow edges in this data set
        return []
    for record, fit in measured:
        images = (record.key,)
        if fit.mirrored - max(fit.near, fit.best) >= MIN_GAIN and fit.mirrored - fit.middle >= MIN_CONTRAST:
            text = f"{record.name}: fits {fit.mirrored:.2f} when mirrored, {fit.near:.2f} as it is"
            mirrored.append((fit.mirrored - fit.near, Case(images, text)))
        elif fit.best - fit.near >= MIN_GAIN and fit.best - fit.middle >= max(MIN_CONTRAST, usual / 2):
            moved = f"{fit.best:.2f} when moved by {format_offset(fit.offset)}"
            text = f"{record.name}: fits {moved}, {fit.near:.2f} as it is"
            shifted.append((fit.best - fit.near, Case(images, text)))
        elif fit.near - fit.middle < LOW_CONTRAST * usual:
            text = f"{record.name}: fits {fit.near:.2f}, and {fit.middle:.2f} elsewhere"
            foreign.append((fit.middle - fit.near, Case(images, text)))
    masks = f"of {len(records):,} masks"
    return findings_with_cases(
        Finding(
            KINDS[0],
            "serious",
            f"{len(shifted):,} {masks} fit their images better when moved.",
            "Move the masks by that offset",
            _sort_cases(shifted),
        ),
        Finding(
            KINDS[1],
            "serious",
            f"{len(mirrored):,} {masks} fit their images better when mirrored.",
            "Mirror the masks back",
            _sort_cases(mirrored),
        ),
        Finding(
            KINDS[2],
            "warning",
            f"{len(foreign):,} {masks} may belong to other images: their borders do not follow edges.",
            "Compare image and mask; check that the file names match",
            _sort_cases(foreign),
        ),
    )


def _sort_cases(found: list[tuple[float, Case]]) -> list[Case]:
    """Return cases by their clearness, the clearest first."""
    return [case for _, case in sorted(found, key=lambda pair: -pair[0])]


def format_offset(offset: tuple[int, int]) -> str:
    """Format an offset (y, x)."""
    parts = []
    for value, negative, positive in ((offset[1], "left", "right"), (offset[0], "up", "down")):
        if value:
            parts.append(f"{abs(value)} px {negative if value < 0 else positive}")
    return " and ".join(parts) or "less than a pixel"
