"""Labels that contradict a model: regions of another class, exchanged classes, moved masks.

For each image three explanations of its label are compared with the label as it is, by how much more likely
the model finds them (log-likelihood in nats per labeled pixel):

* connected regions that have another class, as in the pixel scores of confident learning (Northcutt, Jiang,
  Chuang 2021), summed over a region instead of averaged over the image;
* two classes that are exchanged in the whole image;
* the mask, moved.

A model confuses some classes everywhere. So the evidence of a region is divided by that of the same confusion
in the other images: what remains is what the model usually gets right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from segkit.tools.doctor.agreement import find_best_offset, score_near_zero
from segkit.tools.doctor.findings import Key
from segkit.types import Sample, label_ignore_index

SIDE = 512  # pixels of the longer side at which regions are compared
SHIFT_SIDE, REACH = 120, 8  # pixels of the longer side for moved masks, and the largest offset
LEAST = 1e-3  # probabilities below count as this, so that no single pixel decides
MARGIN = np.log(2)  # between prediction and label, of a pixel in a region
OPENING = 5  # pixels: thinner regions are borders
MOST_REGIONS = 12  # of an image
USUAL_EVIDENCE = 0.01  # nats per pixel, added to that of the other images
USUAL_PERCENTILE = 95  # of the evidence of a confusion over the images
SHIFT_UNIT = 0.005  # nats per pixel that count as much as the usual evidence; right masks gain nothing


class Region(NamedTuple):
    """A connected region whose label the model contradicts."""

    label: int
    prediction: int
    evidence: float  # nats per labeled pixel of the image
    share: float  # of the labeled pixels
    box: tuple[int, int, int, int]  # x, y, width, height in pixels of the image
    score: float = 0.0  # in the ranking; 1 is usual in this data set


class Comparison(NamedTuple):
    """Evidence of one image against its label."""

    regions: tuple[Region, ...]  # most evidence first
    shift: float  # nats per pixel gained by moving the mask
    offset: tuple[int, int]  # y, x in pixels of the image: where the mask fits best
    exchange: tuple[int, int, float] | None  # two classes, and the nats per pixel gained by exchanging them


class Suspect(NamedTuple):
    """An image with the evidence against its label, and its score in the ranking."""

    key: Key
    is_trained_on: bool | None  # None: unknown
    comparison: Comparison
    score: float = 0.0  # 1 is usual in this data set

    def unusual_regions(self) -> dict[int, Region]:
        """Return the regions with scores of at least 1, by their numbers from 1 on."""
        regions = enumerate(self.comparison.regions, start=1)
        return {number: region for number, region in regions if region.score >= 1}


class Opinion(NamedTuple):
    """A sample with the comparison of its label and the prediction of the model."""

    sample: Sample
    comparison: Comparison
    numbers: np.ndarray  # of the regions, as in ``compare_label``
    prediction: np.ndarray  # (H, W) class ids


def compare_label(probabilities: np.ndarray, label: np.ndarray) -> tuple[Comparison, np.ndarray]:
    """Compare the label (H, W) of an image with the probabilities (K, H, W) of a model.

    Returns:
        The comparison, and the numbers of its regions from 1 on, (h, w), at most ``SIDE`` pixels long.
    """
    scale = min(1.0, SIDE / max(label.shape))
    size = tuple(max(1, round(side * scale)) for side in label.shape[::-1])
    small = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT)
    resized = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in probabilities.astype(np.float32)]
    likelihood = np.log(np.maximum(np.stack(resized), LEAST))  # (K, h, w)
    is_labeled = small != label_ignore_index(label)
    known = np.where(is_labeled, small, 0)
    own = np.take_along_axis(likelihood, known[None].astype(np.int64), 0)[0]
    regions, numbers = _find_regions(likelihood, own, known, is_labeled, scale)
    shift, offset = _measure_shift(likelihood, small)
    exchange = _find_exchange(likelihood, own, known, is_labeled)
    return Comparison(regions, shift, offset, exchange), numbers


def _find_regions(
    likelihood: np.ndarray, own: np.ndarray, label: np.ndarray, is_labeled: np.ndarray, scale: float
) -> tuple[tuple[Region, ...], np.ndarray]:
    margin = np.where(is_labeled, likelihood.max(0) - own, 0)
    prediction = likelihood.argmax(0)
    num_classes, count = len(likelihood), max(1, int(is_labeled.sum()))
    kernel = np.ones((OPENING, OPENING), np.uint8)
    contradicted = cv2.morphologyEx((margin > MARGIN).astype(np.uint8), cv2.MORPH_OPEN, kernel)
    number, components, boxes, _ = cv2.connectedComponentsWithStats(contradicted, connectivity=4)
    components = np.asarray(components, np.int32)
    sums = np.bincount(components.ravel(), weights=margin.ravel(), minlength=number)
    chosen = [int(i) for i in np.argsort(-sums) if i > 0][:MOST_REGIONS]
    regions, numbers = [], np.zeros(number, np.int32)
    for place, component in enumerate(chosen, start=1):
        x, y, width, height, area = (int(value) for value in boxes[component])
        inside = np.s_[y : y + height, x : x + width]
        is_inside = components[inside] == component
        regions.append(
            Region(
                label=_most_common(label[inside][is_inside], num_classes),
                prediction=_most_common(prediction[inside][is_inside], num_classes),
                evidence=float(sums[component] / count),
                share=area / count,
                box=(round(x / scale), round(y / scale), round(width / scale), round(height / scale)),
            )
        )
        numbers[component] = place
    return tuple(regions), numbers[components]


def _most_common(ids: np.ndarray, num_classes: int) -> int:
    return int(np.bincount(ids, minlength=num_classes).argmax())


def _measure_shift(likelihood: np.ndarray, label: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Return the gain of the best offset over none, and the offset (y, x) in pixels of the label."""
    height, width = label.shape
    scale = min(1.0, SHIFT_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if min(size) <= 3 * REACH:
        return 0.0, (0, 0)
    small = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT)[REACH:-REACH, REACH:-REACH]
    is_labeled = small != label_ignore_index(label)
    scores = np.zeros((2 * REACH + 1, 2 * REACH + 1))
    for k in np.unique(small[is_labeled]).tolist():
        channel = cv2.resize(likelihood[k], size, interpolation=cv2.INTER_AREA)
        scores += cv2.matchTemplate(channel, (small == k).astype(np.float32), cv2.TM_CCORR)
    scores /= max(1, is_labeled.sum())
    return float(scores.max()) - score_near_zero(scores), find_best_offset(scores, scale)


def _find_exchange(
    likelihood: np.ndarray, own: np.ndarray, label: np.ndarray, is_labeled: np.ndarray
) -> tuple[int, int, float] | None:
    """Return the two classes that the model prefers exchanged, both of them; None without such a pair."""
    num_classes, ids = len(likelihood), label[is_labeled]
    gains = np.zeros((num_classes, num_classes))  # of replacing class i by class j
    for k in range(num_classes):
        difference = (likelihood[k] - own)[is_labeled]
        gains[:, k] = np.bincount(ids, weights=difference, minlength=num_classes)
    both = np.where((gains > 0) & (gains.T > 0), gains + gains.T, 0)
    one, other = (int(k) for k in np.unravel_index(both.argmax(), both.shape))
    if both[one, other] == 0:
        return None
    return one, other, float(both[one, other] / len(ids))


def rank_images(images: Sequence[Suspect]) -> list[Suspect]:
    """Return the images with their scores, by how likely their labels are wrong, the most likely first.

    The evidence of a region is compared with that of the same confusion in the other images; images that the
    model was trained on are compared among themselves.
    """
    groups = defaultdict(list)
    for image in images:
        groups[image.is_trained_on].append(image)
    ranking = [suspect for group in groups.values() for suspect in _score_group(group)]
    return sorted(ranking, key=lambda suspect: -suspect.score)


def _score_group(images: Sequence[Suspect]) -> list[Suspect]:
    strongest: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    for place, image in enumerate(images):
        for region in image.comparison.regions:
            of_pair = strongest[region.label, region.prediction]
            of_pair[place] = max(of_pair.get(place, 0.0), region.evidence)
    rank = int(len(images) * (100 - USUAL_PERCENTILE) / 100)
    usual = {pair: sorted(values.values(), reverse=True) for pair, values in strongest.items()}
    suspects = []
    for place, image in enumerate(images):
        regions = []
        for region in image.comparison.regions:
            pair = region.label, region.prediction
            own, values = strongest[pair][place], usual[pair]
            at = rank
            if own >= values[min(rank, len(values) - 1)]:  # leave out the image itself
                at += 1
            others = values[at] if at < len(values) else 0.0
            regions.append(region._replace(score=region.evidence / (USUAL_EVIDENCE + others)))
        score = max([image.comparison.shift / SHIFT_UNIT, *(region.score for region in regions)])
        comparison = image.comparison._replace(regions=tuple(regions))
        suspects.append(image._replace(score=score, comparison=comparison))
    return suspects
