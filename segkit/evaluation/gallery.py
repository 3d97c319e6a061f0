"""Selection of the worst and best images of an evaluation, scaled down."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from segkit.evaluation import metrics
from segkit.evaluation.scoring import Evaluation
from segkit.types import Dataset, Sample
from segkit.visualize.overlays import shrink_sample

MAX_SIDE = 640  # pixels


class ScoredImage(NamedTuple):
    """One image with its label, prediction and score."""

    name: str
    image: np.ndarray  # (h, w, 3) uint8
    label: np.ndarray  # (h, w) class ids
    prediction: np.ndarray  # (h, w) class ids
    score: float  # mean IoU at full size, over the classes in the label


def gather_extremes(
    evaluation: Evaluation,
    dataset: Dataset,
    predict_image: Callable[[Sample], np.ndarray],
    *,
    worst: int = 9,
    best: int = 3,
) -> list[ScoredImage]:
    """Return the images with the lowest and highest scores, worst first, without those that have no labels.

    Args:
        evaluation: of the data set.
        dataset: to read the images from.
        predict_image: returns the class ids (H, W) of an image.
        worst: number of images.
        best: number of images.
    """
    assert evaluation.image_counts is not None
    counts = evaluation.image_counts[..., : len(evaluation.counts)]
    scores = metrics.score_pixels(counts, absent="labels")["mIoU"]
    order: list[int] = np.argsort(scores, kind="stable").tolist()  # NaN last
    order = order[: np.count_nonzero(~np.isnan(scores))]
    index_of = {name: index for index, name in enumerate(dataset.names)}
    images = []
    for position in dict.fromkeys([*order[:worst], *order[max(0, len(order) - best) :]]):
        sample = dataset.read(index_of[evaluation.names[position]])
        image, label = shrink_sample(sample, MAX_SIDE)
        prediction = predict_image(sample).astype(label.dtype)
        small = cv2.resize(prediction, label.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        images.append(ScoredImage(sample.name, image, label, small, float(scores[position])))
    return images
