"""Scores as pure functions of one K x K confusion matrix of the complete split; rows are labels.

The *absent* rule decides how a mean counts classes that nobody labeled or predicted: ``zero`` (ADE20K's
official script), ``exclude`` (cityscapesScripts, mmsegmentation: left out) or ``labels`` (detectron2: only
classes that occur in the labels are averaged).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from segkit.types import ignore_index

Absent = Literal["zero", "exclude", "labels"]

BOUNDARY_RATIO = 0.02  # boundary width / image diagonal, Cheng et al. 2021 (arXiv 2103.16562)


class ConfusionMatrix:
    """Counts of (label, prediction) pairs, on the device of the predictions.

    Attributes:
        counts: (K, K) int64; float32 would stop counting at 2^24 pixels of a class.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

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
        # one bin for every pair: classes, then "not a class", then "ignored"
        bins = classes + 2
        row = torch.where((label >= 0) & (label < classes), label.int(), classes)
        row = row.masked_fill_(label == ignored, classes + 1)
        column = torch.where((prediction >= 0) & (prediction < classes), prediction.int(), classes)
        pairs = torch.bincount((row * bins + column).flatten(), minlength=bins**2).view(bins, bins)
        scored_pairs = pairs[:-1]
        counts = scored_pairs[:classes, :classes]
        if int(scored_pairs.sum()) != int(counts.sum()):
            scored = label != ignored
            raise ValueError(
                f"ids up to {int(label[scored].max())} in the label and {int(prediction[scored].max())} in "
                f"the prediction, but the model has {classes} classes (0..{classes - 1}; {ignored} is "
                "ignored): model and data do not match"
            )
        self.counts += counts


def _divide(part: Tensor, total: Tensor) -> Tensor:
    """Return the ratio in float64, NaN for 0 / 0."""
    return part.double() / total.double()


def compute_class_scores(counts: Tensor) -> dict[str, Tensor]:
    """Return IoU, precision, recall and Dice of each class, (K,) float64 fractions; NaN if undefined.

    Args:
        counts: (K, K), rows are labels; or (K, K + 1) with pixels predicted as no class in the last column.
    """
    hit, labeled, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)[: len(counts)]
    return {
        "IoU": _divide(hit, labeled + predicted - hit),
        "precision": _divide(hit, predicted),
        "recall": _divide(hit, labeled),
        "Dice": _divide(2 * hit, labeled + predicted),
    }


def mean_over_classes(values: Tensor, counts: Tensor, *, absent: Absent) -> float:
    """Return the mean of a score (K,), in which NaN marks classes without pixels."""
    if absent == "zero":
        return float(values.nan_to_num(0.0).mean())
    if absent == "labels":
        values = values[counts.sum(1) > 0]
    return float(values.nanmean())


def compute_scores(counts: Tensor, *, absent: Absent = "zero") -> dict[str, float]:
    """Return the scores of a split, fractions of 1.

    Args:
        counts: (K, K) integers, rows are labels.
        absent: rule for classes that nobody labeled or predicted.

    Returns:
        pixAcc, mIoU, mAcc (mean recall), fwIoU (IoU weighted by labeled pixels) and mDice; see docs/using.md.

    Raises:
        ValueError: no pixel was counted.
    """
    counts = counts.cpu()
    total = int(counts.sum())
    if total == 0:
        raise ValueError(
            "nothing to score: there are no images, or all their pixels are ignored. Check data.val_split "
            "and the class table"
        )
    each = compute_class_scores(counts)
    accuracy = int(counts.diagonal().sum()) / total
    mean_iou = mean_over_classes(each["IoU"], counts, absent=absent)
    frequency = counts.sum(1).double() / total
    return {
        "pixAcc": accuracy,
        "mIoU": mean_iou,
        "mAcc": mean_over_classes(each["recall"], counts, absent=absent),
        "fwIoU": float((frequency * each["IoU"].nan_to_num(0.0)).sum()),
        "mDice": mean_over_classes(each["Dice"], counts, absent=absent),
    }


def ade20k_score(figures: Mapping[str, float]) -> float:
    """Return the ranking score of the ADE20K benchmark from pixAcc and mIoU: their mean."""
    return (figures["pixAcc"] + figures["mIoU"]) / 2


def merge_classes(counts: Tensor, groups: Sequence[str]) -> tuple[list[str], Tensor]:
    """Merge counts of classes into counts of categories; ``groups[k]`` names the category of class k.

    Returns:
        The C names in order of appearance, and their (C, C) counts; their IoU is Cityscapes' category IoU.
    """
    names = list(dict.fromkeys(groups))
    member = torch.tensor([names.index(group) for group in groups], device=counts.device)
    rows = counts.new_zeros(len(names), counts.shape[1]).index_add_(0, member, counts)
    return names, counts.new_zeros(len(names), len(names)).index_add_(1, member, rows)


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
        Sum them over a split for ``compute_boundary_iou``.
    """
    prediction = np.where(label == ignore_index(num_classes), label, prediction)
    width = max(1, round(BOUNDARY_RATIO * float(np.hypot(*label.shape))))
    near_label, near_prediction = _boundary_band(label, width), _boundary_band(prediction, width)
    both = near_label & near_prediction & (label == prediction)
    selected = label[both], label[near_label], prediction[near_prediction]
    counts = [np.bincount(ids, minlength=num_classes)[:num_classes] for ids in selected]
    return torch.from_numpy(np.stack(counts).astype(np.int64))


def compute_boundary_iou(counts: Tensor) -> Tensor:
    """Return Boundary IoU of each class, (K,) float64, from ``count_boundary_pixels``; NaN if absent."""
    both, labeled, predicted = counts
    return _divide(both, labeled + predicted - both)
