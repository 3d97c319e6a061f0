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

from segkit.tools.doctor.findings import Agreement, Case, Record
from segkit.types import label_ignore_index

SIDE = 240  # pixels of the longer side at which borders and edges are compared
REACH = 20  # pixels at that size: the largest offset
GAP = 4  # pixels at that size: ignored pixels up to this far from others belong to a border
MIN_BORDER = 30  # pixels at that size
MIN_GAIN = 0.04  # of the best offset over none: CamVid's masks gain up to 0.03, shifted ones from 0.05
MIN_CONTRAST = 0.06  # of the best offset over the median of all offsets
LOW_CONTRAST = 0.4  # of the median over the images: masks of other images are below
KINDS = ("shifted masks", "mirrored masks", "masks that do not fit")


def measure_agreement(gray: np.ndarray, label: np.ndarray) -> Agreement | None:
    """Return the agreement of a label (H, W) with its image (H, W); None if it has too few borders."""
    scale = min(1.0, SIDE / max(label.shape))
    width, height = (max(1, round(side * scale)) for side in label.shape[::-1])
    if min(height, width) <= 3 * REACH:
        return None
    ranks = _rank_edges(cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA))
    small = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    borders = find_borders(fill_gaps(small))
    scores, mirrored = _agreement_map(ranks, borders), _agreement_map(ranks, borders[:, ::-1])
    if scores is None or mirrored is None:
        return None
    return Agreement(
        near=score_near_zero(scores),
        best=float(scores.max()),
        offset=find_best_offset(scores, scale),
        mirrored=score_near_zero(mirrored),
        middle=float(np.median(scores)),
    )


def score_near_zero(scores: np.ndarray) -> float:
    """Return the highest of the scores (2R + 1, 2R + 1) at offset zero and one pixel around it."""
    reach = len(scores) // 2
    return float(scores[reach - 1 : reach + 2, reach - 1 : reach + 2].max())


def find_best_offset(scores: np.ndarray, scale: float) -> tuple[int, int]:
    """Return the offset (y, x) of the highest score, in pixels of an image that was scaled by ``scale``."""
    y, x = np.unravel_index(scores.argmax(), scores.shape)
    reach = len(scores) // 2
    return round((int(y) - reach) / scale), round((int(x) - reach) / scale)


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


def find_misfits(records: Sequence[Record]) -> list[Case]:
    """Return cases of masks that are shifted, mirrored or of other images, the clearest first."""
    measured = [(record, record.agreement) for record in records if record.agreement is not None]
    if not measured:
        return []
    usual = float(np.median([max(fit.best, fit.mirrored) - fit.middle for _, fit in measured]))
    if usual < MIN_CONTRAST:  # borders do not follow edges in this data set
        return []
    found = []
    for record, fit in measured:
        as_it_is = f"{fit.near:.2f} as it is"
        if fit.mirrored - max(fit.near, fit.best) >= MIN_GAIN and fit.mirrored - fit.middle >= MIN_CONTRAST:
            kind, gain = "mirrored masks", fit.mirrored - fit.near
            text = f"fits {fit.mirrored:.2f} when mirrored, {as_it_is}"
        elif fit.best - fit.near >= MIN_GAIN and fit.best - fit.middle >= max(MIN_CONTRAST, usual / 2):
            kind, gain = "shifted masks", fit.best - fit.near
            text = f"fits {fit.best:.2f} when moved by {format_offset(fit.offset)}, {as_it_is}"
        elif fit.near - fit.middle < LOW_CONTRAST * usual:
            kind, gain = "masks that do not fit", fit.middle - fit.near
            text = f"fits {fit.near:.2f}, and {fit.middle:.2f} elsewhere"
        else:
            continue
        found.append((gain, Case(kind, (record.key,), f"{record.key.name}: {text}")))
    return [case for _, case in sorted(found, key=lambda pair: -pair[0])]


def format_offset(offset: tuple[int, int]) -> str:
    """Format an offset (y, x)."""
    parts = []
    for value, negative, positive in ((offset[1], "left", "right"), (offset[0], "up", "down")):
        if value:
            parts.append(f"{abs(value)} px {negative if value < 0 else positive}")
    return " and ".join(parts) or "less than a pixel"
