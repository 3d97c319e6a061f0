"""Scores are pure functions of one K x K matrix of counts over the whole split, not means over images.

Rows are labels, columns are predictions. What a class counts that nobody labeled or predicted is the
*absent* rule: ``zero`` (ADE20K's official script: 0 over all classes), ``exclude`` (cityscapesScripts,
mmsegmentation: left out) or ``labels`` (detectron2: only classes that occur in the labels are averaged).
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

BOUNDARY_RATIO = 0.02  # of the diagonal: the width of a boundary band, Cheng et al. 2021 (arXiv 2103.16562)


class ConfusionMatrix:
    """Counts of (label, prediction) pairs, kept on the device until somebody asks.

    Attributes:
        counts: (K, K) int64; float32 would stop counting at 2^24 pixels of a class.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, label: Tensor | np.ndarray, prediction: Tensor | np.ndarray) -> None:
        """Count one image or batch; ignored pixels count nowhere.

        Raises:
            ValueError: the shapes differ, or the label or the prediction holds an id that is no class.
        """
        label, prediction = (torch.as_tensor(x, device=self.counts.device) for x in (label, prediction))
        if label.shape != prediction.shape:
            raise ValueError(
                f"the prediction is {tuple(prediction.shape)} but its label {tuple(label.shape)}; "
                "predict at the size of the label, labels are never resized"
            )
        classes, ignored = self.num_classes, ignore_index(self.num_classes)
        bins = classes + 2  # what is no class comes next, and what is ignored last: every pair has a bin
        row, column = (torch.where((x >= 0) & (x < classes), x.int(), classes) for x in (label, prediction))
        pair = row.masked_fill_(label == ignored, classes + 1) * bins + column
        seen = torch.bincount(pair.flatten(), minlength=bins**2).view(bins, bins)[:-1]
        counts = seen[:classes, :classes]
        if int(seen.sum()) != int(counts.sum()):
            scored = label != ignored
            labels, predictions = (int(ids[scored].max()) for ids in (label, prediction))
            raise ValueError(
                f"ids up to {labels} in the label and {predictions} in the prediction, but the model has "
                f"{classes} classes (0..{classes - 1}; {ignored} is ignored): "
                "it and the data do not belong together"
            )
        self.counts += counts


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Part of the whole in float64; NaN where the whole is nothing."""
    return part.double() / whole.double()  # 0 / 0 is NaN in float64


def compute_class_scores(counts: Tensor) -> dict[str, Tensor]:
    """IoU, precision, recall and Dice of each class, (K,) float64 fractions; NaN where nothing counts."""
    hit, labeled, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    return {
        "IoU": _ratio(hit, labeled + predicted - hit),
        "precision": _ratio(hit, predicted),
        "recall": _ratio(hit, labeled),
        "Dice": _ratio(2 * hit, labeled + predicted),
    }


def mean_over_classes(values: Tensor, counts: Tensor, *, absent: Absent) -> float:
    """Mean over classes of a score (K,) that is NaN where a class has nothing to count."""
    if absent == "zero":
        return float(values.nan_to_num(0.0).mean())
    if absent == "labels":
        values = values[counts.sum(1) > 0]
    return float(values.nanmean())


def compute_scores(counts: Tensor, *, absent: Absent = "zero") -> dict[str, float]:
    """All figures of a split, fractions of 1.

    Args:
        counts: (K, K) integers, rows are labels.
        absent: what a class counts that nobody labeled or predicted.

    Returns:
        pixAcc, mIoU, mAcc (mean recall), fwIoU (IoU weighted by labeled pixels) and mDice; docs/using.md
        has them in words.

    Raises:
        ValueError: nothing was counted.
    """
    counts = counts.cpu()
    total = int(counts.sum())
    if total == 0:
        raise ValueError(
            "there is nothing to score: no image, or every pixel of every label is ignored; "
            "check data.val_split and the label table"
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
    """The figure that ADE20K's benchmark ranks by, of its own data alone: the mean of pixAcc and mIoU."""
    return (figures["pixAcc"] + figures["mIoU"]) / 2


def merge_classes(counts: Tensor, groups: Sequence[str]) -> tuple[list[str], Tensor]:
    """Counts of categories from counts of classes; ``groups[k]`` names the category of class k.

    Returns:
        The names in order of appearance, and their (C, C) counts, whose ``compute_class_scores`` hold
        Cityscapes' category IoU.
    """
    names = list(dict.fromkeys(groups))
    member = torch.tensor([names.index(group) for group in groups], device=counts.device)
    rows = counts.new_zeros(len(names), counts.shape[1]).index_add_(0, member, counts)
    return names, counts.new_zeros(len(names), len(names)).index_add_(1, member, rows)


def _band(ids: np.ndarray, width: int) -> np.ndarray:
    """Pixels nearer than ``width`` to another class or to the edge of the image.

    Eroding every class mask ``width`` times with a 3x3 square keeps exactly the pixels whose neighborhood
    has one id throughout: where the smallest id around equals the greatest. Two filters instead of 2K.
    """
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    padded = cv2.copyMakeBorder(ids, width, width, width, width, cv2.BORDER_REPLICATE)
    inner = (slice(width, -width), slice(width, -width))
    band = (cv2.dilate(padded, square) != cv2.erode(padded, square))[inner]
    band[:width], band[-width:], band[:, :width], band[:, -width:] = True, True, True, True
    return band


def count_boundary_pixels(label: np.ndarray, prediction: np.ndarray, num_classes: int) -> Tensor:
    """What Boundary IoU counts in one image (Cheng et al. 2021): pixels near a boundary of their own mask.

    Args:
        label: (H, W) class ids, or what is ignored.
        prediction: (H, W) class ids, of the same type.
        num_classes: K.

    Returns:
        (3, K) int64: pixels in both bands with the same class, in the label's band, in the prediction's band.
        Add them up over a split and give them to ``boundary_scores``.
    """
    prediction = np.where(label == ignore_index(num_classes), label, prediction)
    width = max(1, round(BOUNDARY_RATIO * float(np.hypot(*label.shape))))
    near_label, near_prediction = _band(label, width), _band(prediction, width)
    both = near_label & near_prediction & (label == prediction)
    picked = label[both], label[near_label], prediction[near_prediction]
    counted = [np.bincount(ids, minlength=num_classes)[:num_classes] for ids in picked]
    return torch.from_numpy(np.stack(counted).astype(np.int64))


def compute_boundary_iou(counts: Tensor) -> Tensor:
    """Return Boundary IoU of each class, (K,) float64, from ``count_boundary_pixels``; NaN if absent."""
    both, labeled, predicted = counts
    return _ratio(both, labeled + predicted - both)
