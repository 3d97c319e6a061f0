"""Instance-weighted IoU of Cityscapes (iIoU; Cordts et al. 2016, section 4.1).

Pixels of an object count with the average size of its class divided by its own size, so that small objects
weigh as much as large ones. False positives are not weighted: predictions have no instances. Groups (ids
below 1,000) count in false positives alone. Sums run in the order of cityscapesScripts, so results are equal.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segkit.data.label_map import LabelMap
from segkit.data.reading import read_mask
from segkit.evaluation import metrics
from segkit.evaluation.evaluators.confusion import ConfusionScores
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


def find_instance_file(mask: Path) -> Path | None:
    """Return the file of instance ids beside a file of label ids, or None if there is none."""
    file = mask.with_name(mask.name.replace("labelIds", "instanceIds"))
    if file != mask and file.is_file():
        return file
    return None


def measure_instances(file: Path, prediction: np.ndarray, table: LabelMap) -> tuple[np.ndarray, np.ndarray]:
    """Return the class (n,) and the weighted pixels (4, n) of the objects of an image, by instance id.

    The pixels are those that are predicted as the class, the others, those that are predicted as any class of
    the category, and the others.

    Args:
        file: 16-bit PNG of instance ids, 1,000 times the label id plus a number.
        prediction: (H, W) class ids, ``ignore_index`` where it is no class.
        table: of Cityscapes.
    """
    instances = read_mask(file, "any")
    classes = table.num_classes
    prediction = np.minimum(prediction, classes)
    average = np.array([AVERAGE_SIZE.get(entry.name, 0) for entry in table.classes])
    owner_of = np.full(1 << 16, classes + 1, np.int32)  # class id of each instance id
    for index, entry in enumerate(table.classes):
        if average[index]:
            owner_of[entry.id * 1000 : (entry.id + 1) * 1000] = index
    owner = owner_of[instances]
    names = list(dict.fromkeys(table.categories))
    category_of = np.array([*(names.index(name) for name in table.categories), -1, -2])
    size = np.bincount(instances.ravel(), minlength=1 << 16)
    hit = np.bincount(instances[owner == prediction], minlength=1 << 16)
    category_hit = np.bincount(instances[category_of[owner] == category_of[prediction]], minlength=1 << 16)
    objects = np.flatnonzero((size > 0) & (owner_of < classes))
    class_ids = owner_of[objects]
    pixels = np.stack([hit, size - hit, category_hit, size - category_hit])[:, objects]
    return class_ids, pixels * (average[class_ids] / size[objects])


class InstanceIoU:
    """An evaluator of the weighted pixels of each class.

    Args:
        table: of Cityscapes.
        confusion: counts the false positives; is updated before.

    Attributes:
        objects: ``measure_instances`` of the image that comes next, if it has such a file.
    """

    def __init__(self, table: LabelMap, confusion: ConfusionScores) -> None:
        self.table, self.confusion = table, confusion
        self.objects: tuple[np.ndarray, np.ndarray] | None = None
        self.sums = np.zeros((4, table.num_classes))

    def update(self, label: np.ndarray, prediction: Tensor) -> None:
        """Add the objects of an image."""
        if self.objects is not None:
            class_ids, pixels = self.objects
            np.add.at(self.sums.T, class_ids, pixels.T)

    def state(self) -> Tensor:
        """Return float64 (6, K): ``measure_instances`` summed, false positives of class and category."""
        confusion = self.confusion.state()[:, : self.table.num_classes].numpy()
        categories = np.array(self.table.categories)
        is_other = categories[:, None] != categories
        false = [confusion.sum(0) - confusion.diagonal(), (confusion * is_other).sum(0)]
        return torch.from_numpy(np.concatenate([self.sums, false]))

    def compute(self, state: Tensor) -> EvaluatorResult:
        """Return iIoU, NaN for classes without instances, and iIoU_category."""
        hit, missed, category_hit, category_missed, false, category_false = state.numpy()
        has_instances = np.array([entry.name in AVERAGE_SIZE for entry in self.table.classes])
        by_class = metrics.divide(hit, np.where(has_instances, hit + false + missed, 0))
        by_category = []
        for group in GROUPS:
            member = np.array(self.table.categories) == group
            total = category_hit[member].sum() + category_false[member].sum() + category_missed[member].sum()
            by_category.append(metrics.divide(category_hit[member].sum(), total))
        scores = {"iIoU": by_class, "iIoU_category": np.array(by_category)}
        means = {name: float(metrics.mean_of_defined(values)) for name, values in scores.items()}
        return EvaluatorResult(means, {"iIoU": by_class.tolist()})
