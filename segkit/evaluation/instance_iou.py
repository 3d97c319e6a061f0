"""Instance-weighted IoU of Cityscapes (iIoU; Cordts et al. 2016, section 4.1).

Pixels of an object count with the average size of its class divided by its own size, so that small objects
weigh as much as large ones. False positives are not weighted: predictions have no instances. Groups (ids
below 1,000) count in false positives alone. Sums run in the order of cityscapesScripts, so results are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segkit.data.label_map import LabelMap
from segkit.data.reading import read_mask
from segkit.evaluation.scoring import Evaluation
from segkit.types import EvaluatorResult

AVERAGE_SIZE = {  # pixels, of cityscapesScripts
    "bicycle": 4672.3249222261,
    "motorcycle": 6298.7200839748,
    "rider": 3930.4788056518,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "car": 12794.0202738185,
    "person": 3462.4756337644,
    "truck": 27855.1264367816,
}
GROUPS = ("human", "vehicle")  # categories all of whose classes have instances


class InstancePixels(NamedTuple):
    """Weighted pixels of one object."""

    class_id: int
    hit: float
    missed: float
    category_hit: float  # predicted as any class of its category
    category_missed: float


def find_instance_file(mask: Path) -> Path | None:
    """Return the file of instance ids beside a file of label ids, or None if there is none."""
    file = mask.with_name(mask.name.replace("labelIds", "instanceIds"))
    if file != mask and file.is_file():
        return file
    return None


def measure_instances(file: Path, prediction: np.ndarray, table: LabelMap) -> list[InstancePixels]:
    """Return the weighted pixels of each object of an image, in the order of their ids.

    Args:
        file: 16-bit PNG of instance ids, 1,000 times the label id plus a number.
        prediction: (H, W) class ids, ``ignore_index`` where it is no class.
        table: of Cityscapes.
    """
    instances = read_mask(file, "any")
    classes = table.num_classes
    prediction = np.minimum(prediction, classes)
    owner_of = np.full(1 << 16, classes + 1, np.int32)  # class id of each instance id
    for index, entry in enumerate(table.classes):
        if entry.name in AVERAGE_SIZE:
            owner_of[entry.id * 1000 : (entry.id + 1) * 1000] = index
    owner = owner_of[instances]
    names = list(dict.fromkeys(table.categories))
    category_of = np.array([*(names.index(name) for name in table.categories), -1, -2])
    size = np.bincount(instances.ravel(), minlength=1 << 16)
    hit = np.bincount(instances[owner == prediction], minlength=1 << 16)
    category_hit = np.bincount(instances[category_of[owner] == category_of[prediction]], minlength=1 << 16)
    found = []
    for instance in np.flatnonzero((size > 0) & (owner_of < classes)):
        class_id = int(owner_of[instance])
        weight = AVERAGE_SIZE[table.classes[class_id].name] / float(size[instance])
        counts = (hit[instance], category_hit[instance])
        right, category_right = (float(count) * weight for count in counts)
        wrong, category_wrong = (float(size[instance] - count) * weight for count in counts)
        found.append(InstancePixels(class_id, right, wrong, category_right, category_wrong))
    return found


class InstanceSums:
    """An evaluator of the weighted pixels of each class; ``add_instance_iou`` computes the scores.

    Attributes:
        objects: of the image that comes next; set them before ``update``.
    """

    def __init__(self, classes: int) -> None:
        self.objects: Sequence[InstancePixels] = ()
        self.sums = torch.zeros(4, classes, dtype=torch.float64)

    def update(self, label: np.ndarray, prediction: Tensor) -> None:
        """Add the objects of an image."""
        for pixels in self.objects:
            self.sums[:, pixels.class_id] += torch.tensor(pixels[1:], dtype=torch.float64)

    def state(self) -> Tensor:
        """Return the sums (4, K) of hit, missed, category_hit and category_missed."""
        return self.sums

    def compute(self, state: Tensor) -> EvaluatorResult:
        """Return no scores: they depend on the confusion matrix, too."""
        return EvaluatorResult({})


def add_instance_iou(result: Evaluation, sums: np.ndarray, table: LabelMap) -> Evaluation:
    """Return the result with iIoU, NaN for classes without instances, and iIoU_category; ``sums`` (4, K)."""
    confusion = result.counts[:, : table.num_classes].numpy()
    by_class = [float("nan")] * table.num_classes
    for index, entry in enumerate(table.classes):
        if entry.name in AVERAGE_SIZE:
            false = int(confusion[:, index].sum() - confusion[index, index])
            by_class[index] = _divide(sums[0, index], sums[1, index], false)
    by_category = []
    for group in GROUPS:
        member = np.array([category == group for category in table.categories])
        false = int(confusion[~member][:, member].sum())
        by_category.append(_divide(sums[2, member].sum(), sums[3, member].sum(), false))
    scores = {"iIoU": _average(by_class), "iIoU_category": _average(by_category)}
    return result._replace(scores=result.scores | scores, classes={**result.classes, "iIoU": by_class})


def _average(values: Sequence[float]) -> float:
    """Return the mean of the values that are not NaN."""
    valid = [value for value in values if value == value]
    if valid:
        return sum(valid) / len(valid)
    return float("nan")


def _divide(hit: float, missed: float, false: int) -> float:
    total = hit + false + missed
    if total:
        return float(hit / total)
    return float("nan")
