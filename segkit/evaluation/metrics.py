"""Scores as pure functions of one K x K confusion matrix of the complete split; rows are labels.

The *absent* rule decides how a mean counts classes that nobody labeled or predicted: ``zero`` (ADE20K's
official script), ``exclude`` (cityscapesScripts, mmsegmentation: left out) or ``labels`` (detectron2: only
classes that occur in the labels are averaged).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from segkit.types import ClassTable, ignore_index

Absent = Literal["zero", "exclude", "labels"]
HIT, LABELED, PREDICTED = range(3)  # rows of ``count_pixels``

BOUNDARY_RATIO = 0.02  # boundary width / image diagonal, Cheng et al. 2021 (arXiv 2103.16562)


class ConfusionMatrix:
    """Counts of (label, prediction) pairs, on the device of the predictions.

    Attributes:
        counts: (K, K) int64, or (K, K + 1) with pixels predicted as no class in the last column. float32
            would stop counting at 2^24 pixels of a class.

    Args:
        allow_no_class: whether predictions may hold ids that are no class.
    """

    def __init__(
        self, num_classes: int, device: torch.device | str = "cpu", *, allow_no_class: bool = False
    ) -> None:
        self.num_classes, self.columns = num_classes, num_classes + allow_no_class
        self.counts = torch.zeros(num_classes, self.columns, dtype=torch.int64, device=device)

    def update(self, label: Tensor | np.ndarray, prediction: Tensor | np.ndarray) -> None:
        """Count one image or batch; ignored pixels are not counted.

        Raises:
            ValueError: the shapes differ, or label or prediction contain an id that is not a class.
        """
        label = torch.as_tensor(label, device=self.counts.device)
        prediction = torch.as_tensor(prediction, device=self.counts.device)
        if label.shape != prediction.shape:
            raise ValueError(
                f"the prediction has shape {tuple(prediction.shape)}, its label {tuple(label.shape)}: "
                "predict at the size of the label, labels are never resized"
            )
        classes, ignored = self.num_classes, ignore_index(self.num_classes)
        if label.device.type == "cpu" and label.dtype == prediction.dtype == torch.uint8:
            pairs = torch.from_numpy(_count_pairs(label.numpy(), prediction.numpy()))
            pairs[ignored] = 0
        else:
            # one bin for every pair: classes, then "not a class", then "ignored"
            bins = classes + 2
            row = torch.where((label >= 0) & (label < classes), label.int(), classes)
            row = row.masked_fill_(label == ignored, classes + 1)
            column = torch.where((prediction >= 0) & (prediction < classes), prediction.int(), classes)
            pairs = torch.bincount((row * bins + column).flatten(), minlength=bins**2).view(bins, bins)
            pairs = pairs[:-1]
        counts = pairs[:classes, : self.columns].clone()
        if self.columns > classes:
            counts[:, classes] = pairs[:classes, classes:].sum(1)
        if int(pairs.sum()) != int(counts.sum()):
            scored = label != ignored
            raise ValueError(
                f"ids up to {int(label[scored].max())} in the label and {int(prediction[scored].max())} in "
                f"the prediction, but the model has {classes} classes (0..{classes - 1}; {ignored} is "
                "ignored): model and data do not match"
            )
        self.counts += counts


def _count_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return how often each pair of values (256, 256) occurs in two uint8 arrays of one shape.

    Neighbors are mostly equal, and adding to the same bin again waits for the last addition. So 16 parts of
    the arrays are interleaved.
    """
    pixels = [np.ascontiguousarray(array).ravel() for array in (first, second)]
    total = np.zeros((256, 256), np.int64)
    whole = first.size // 16 * 16
    np.add.at(total, (pixels[0][whole:], pixels[1][whole:]), 1)
    for start in range(0, whole, 1 << 24):  # OpenCV counts in float32, exact up to 2^24
        stop = min(start + (1 << 24), whole)
        part = [cv2.transpose(array[start:stop].reshape(16, -1)) for array in pixels]
        total += cv2.calcHist(part, [0, 1], None, [256, 256], [0, 256, 0, 256]).astype(np.int64)
    return total


def count_pixels(confusion: np.ndarray | Tensor, categories: Sequence[str] = ()) -> np.ndarray:
    """Return hit, labeled and predicted pixels of each class, and of each category behind them.

    Args:
        confusion: (K, K) or, with a last column for no class, (K, K + 1); rows are labels.
        categories: K names, or none; the order of the categories is that of their first appearance.

    Returns:
        (3, K + C) integers.
    """
    confusion = np.asarray(confusion)
    inside = confusion[:, : len(confusion)]
    counts = np.stack([inside.diagonal(), confusion.sum(1), inside.sum(0)])
    if not categories or not all(categories):
        return counts
    names = list(dict.fromkeys(categories))
    member = np.array([[category == name for name in names] for category in categories], np.int64)
    hit = (member.T @ inside @ member).diagonal()
    return np.concatenate([counts, np.stack([hit, *(counts[1:] @ member)])], axis=1)


def divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return the quotient, NaN where the divisor is zero."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def compute_class_scores(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return IoU, precision, recall and Dice of each class, (..., K) fractions; NaN if undefined.

    Args:
        pixels: (..., 3, K), from ``count_pixels`` or sums of them.
    """
    hit, labeled, predicted = pixels[..., HIT, :], pixels[..., LABELED, :], pixels[..., PREDICTED, :]
    return {
        "IoU": divide(hit, labeled + predicted - hit),
        "precision": divide(hit, predicted),
        "recall": divide(hit, labeled),
        "Dice": divide(2 * hit, labeled + predicted),
    }


def mean_over_classes(values: np.ndarray, labeled: np.ndarray, *, absent: Absent) -> np.ndarray:
    """Return the mean of a score (..., K), NaN for classes without pixels, of which (..., K) are labeled."""
    if absent == "zero":
        return np.nan_to_num(values).mean(-1)
    if absent == "labels":
        values = np.where(labeled > 0, values, np.nan)
    return mean_of_defined(values)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean of the values (..., K) that are not NaN; NaN if all are."""
    return divide(np.nansum(values, -1), (~np.isnan(values)).sum(-1))


def score_pixels(pixels: np.ndarray, *, absent: Absent) -> dict[str, np.ndarray]:
    """Return the scores of pixel counts (..., 3, K), fractions of 1, each (...).

    They are pixAcc, mIoU, mAcc (mean recall), fwIoU (IoU weighted by labeled pixels) and mDice; see
    docs/using.md.
    """
    labeled, total = pixels[..., LABELED, :], pixels[..., LABELED, :].sum(-1)
    each = compute_class_scores(pixels)
    return {
        "pixAcc": divide(pixels[..., HIT, :].sum(-1), total),
        "mIoU": mean_over_classes(each["IoU"], labeled, absent=absent),
        "mAcc": mean_over_classes(each["recall"], labeled, absent=absent),
        "fwIoU": divide((labeled * np.nan_to_num(each["IoU"])).sum(-1), total),
        "mDice": mean_over_classes(each["Dice"], labeled, absent=absent),
    }


def score_split(pixels: np.ndarray, table: ClassTable, *, absent: Absent) -> dict[str, np.ndarray]:
    """Return all scores of a split, each (...): ``score_pixels``, and those of ADE20K and of categories.

    Args:
        pixels: (..., 3, K + C), from ``count_pixels`` or sums of them.
        table: of the K classes.
        absent: the rule for classes without pixels.
    """
    scores = score_pixels(pixels[..., : table.num_classes], absent=absent)
    if table.name == "ade20k":
        scores["ADE20K"] = (scores["pixAcc"] + scores["mIoU"]) / 2
    categories = pixels[..., table.num_classes :]
    if categories.shape[-1]:
        scores["mIoU_category"] = score_pixels(categories, absent=absent)["mIoU"]
    return scores


def _boundary_band(ids: np.ndarray, width: int) -> np.ndarray:
    """Return the mask of pixels nearer than ``width`` to another class or to the edge of the image.

    Eroding each class mask ``width`` times with a 3x3 square keeps the pixels whose neighborhood has a single
    id: where the smallest id around equals the largest. That takes 2 filters instead of 2K.
    """
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    padded = cv2.copyMakeBorder(ids, width, width, width, width, cv2.BORDER_REPLICATE)
    inner = (slice(width, -width), slice(width, -width))
    band = (cv2.dilate(padded, square) != cv2.erode(padded, square))[inner]
    band[:width], band[-width:], band[:, :width], band[:, -width:] = True, True, True, True
    return band


def count_boundary_pixels(label: np.ndarray, prediction: np.ndarray, num_classes: int) -> Tensor:
    """Count pixels near class boundaries in one image, for Boundary IoU (Cheng et al. 2021).

    Args:
        label: (H, W) class ids or ``ignore_index``.
        prediction: (H, W) class ids, of the same type.
        num_classes: K.

    Returns:
        (3, K) int64: pixels in both bands with the same class, in the label's band, in the prediction's band.
        Their sums over a split are ``pixels`` of ``compute_class_scores``.
    """
    prediction = np.where(label == ignore_index(num_classes), label, prediction)
    width = max(1, round(BOUNDARY_RATIO * float(np.hypot(*label.shape))))
    near_label, near_prediction = _boundary_band(label, width), _boundary_band(prediction, width)
    both = near_label & near_prediction & (label == prediction)
    selected = label[both], label[near_label], prediction[near_prediction]
    counts = [np.bincount(ids, minlength=num_classes)[:num_classes] for ids in selected]
    return torch.from_numpy(np.stack(counts).astype(np.int64))
