"""Metrics against worked examples and other libraries."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from segkit.evaluation import Evaluation, metrics
from segkit.evaluation.metrics import ConfusionMatrix
from segkit.inference import Protocol
from segkit.types import class_id_dtype, ignore_index


def draw_masks(num_classes=6, shape=(40, 50), seed=0, ignored=0.1):
    generator = np.random.default_rng(seed)
    label, prediction = generator.integers(0, num_classes, (2, *shape), dtype=np.uint8)
    prediction[generator.random(shape) < 0.6] = label[0, 0]
    label[generator.random(shape) < ignored] = 255
    return label, prediction


def compute_scores(counts, absent="zero"):
    scores = metrics.score_pixels(metrics.count_pixels(counts), absent=absent)
    return {name: float(value) for name, value in scores.items()}


def count_pairs(label, prediction, num_classes=6):
    matrix = ConfusionMatrix(num_classes)
    matrix.update(label, prediction)
    return matrix.counts


@pytest.mark.parametrize("num_classes", [6, 255, 300])
def test_predictions_of_no_class_have_their_own_column(num_classes):
    generator = np.random.default_rng(0)
    ignored = ignore_index(num_classes)
    values = np.array([*range(num_classes), ignored], class_id_dtype(num_classes))
    label, prediction = generator.choice(values, (2, 40, 50))
    expected = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    np.add.at(expected, tuple(np.minimum(ids, num_classes).ravel() for ids in (label, prediction)), 1)
    matrix = ConfusionMatrix(num_classes, allow_no_class=True)
    matrix.update(label, prediction)
    assert (matrix.counts.numpy() == expected[:num_classes]).all()


def test_counts_are_exact_beyond_float32():
    matrix = ConfusionMatrix(2)
    matrix.counts[1, 1] = 2**40
    matrix.update(np.ones((1, 3), np.uint8), np.ones((1, 3), np.uint8))
    assert int(matrix.counts[1, 1]) == 2**40 + 3


def test_scores_equal_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle: extra `oracles`")
    label, prediction = draw_masks()
    seen = label != 255
    truth, guess = label[seen], prediction[seen]
    counts = count_pairs(label, prediction)
    each = metrics.compute_class_scores(metrics.count_pixels(counts))
    found = compute_scores(counts)
    assert np.array_equal(counts.numpy(), sklearn.confusion_matrix(truth, guess, labels=range(6)))
    for name, oracle in [
        ("IoU", sklearn.jaccard_score),
        ("precision", sklearn.precision_score),
        ("recall", sklearn.recall_score),
        ("Dice", sklearn.f1_score),
    ]:
        np.testing.assert_allclose(
            each[name], oracle(truth, guess, average=None, labels=range(6)), atol=1e-12
        )
    assert found["pixAcc"] == pytest.approx(sklearn.accuracy_score(truth, guess))
    assert found["mIoU"] == pytest.approx(sklearn.jaccard_score(truth, guess, average="macro"))
    assert found["mAcc"] == pytest.approx(sklearn.balanced_accuracy_score(truth, guess))
    assert found["fwIoU"] == pytest.approx(sklearn.jaccard_score(truth, guess, average="weighted"))
    assert found["mDice"] == pytest.approx(sklearn.f1_score(truth, guess, average="macro"))


TOY = torch.tensor([[6, 2, 0, 0], [1, 3, 0, 0], [0] * 4, [0] * 4])  # IoU 6/9, 3/6; nobody knows the rest
PREDICTED_ONLY = TOY.clone()
PREDICTED_ONLY[0, 2] = 1  # class 2 is predicted once: IoU 0


@pytest.mark.parametrize(
    ("counts", "absent", "expected"),
    [
        (TOY, "zero", (6 / 9 + 3 / 6) / 4),
        (TOY, "exclude", (6 / 9 + 3 / 6) / 2),
        (TOY, "labels", (6 / 9 + 3 / 6) / 2),
        (PREDICTED_ONLY, "zero", (6 / 10 + 3 / 6) / 4),
        (PREDICTED_ONLY, "exclude", (6 / 10 + 3 / 6 + 0) / 3),
        (PREDICTED_ONLY, "labels", (6 / 10 + 3 / 6) / 2),
    ],
)
def test_absent_rule_for_unlabeled_classes(counts, absent, expected):
    assert compute_scores(counts, absent=absent)["mIoU"] == pytest.approx(expected, abs=1e-15)


def test_class_table_matches_a_worked_example():
    counts = torch.tensor([[3, 1, 0, 1], [2, 4, 0, 0], [0, 0, 0, 0]])  # the last column is no class
    found = Evaluation(counts, {}, Protocol(), 0.0).class_table()
    assert found["IoU"][:2] == [3 / 7, 4 / 7]
    assert found["recall"][:2] == [3 / 5, 4 / 6]
    assert found["precision"][:2] == [3 / 5, 4 / 5]
    assert found["pixels"] == [5 / 11, 6 / 11, 0.0]
    assert all(np.isnan(found[name][2]) for name in ("IoU", "recall", "precision"))


@pytest.mark.parametrize(
    ("num_classes", "label", "prediction"),
    [(6, 6, 0), (6, 254, 1), (6, 0, 40), (300, 300, 0), (300, -3, 1), (300, 0, 32766), (300, 1, -3)],
)
def test_unknown_class_ids_are_rejected(num_classes, label, prediction):
    pair = [np.full((2, 2), value, class_id_dtype(num_classes)) for value in (label, prediction)]
    message = f"up to {label} in the label and {prediction} in the prediction.*{num_classes} classes"
    with pytest.raises(ValueError, match=f"{message}.*model and data do not match"):
        count_pairs(*pair, num_classes)


def test_prediction_of_another_size_is_rejected():
    with pytest.raises(ValueError, match="labels are never resized"):
        count_pairs(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))


def boundary_by_the_paper(mask, ratio=0.02):
    """Cheng et al.'s mask_to_boundary: what ``width`` erosions with a 3x3 square take away."""
    width = max(1, round(ratio * np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2)))
    framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=width)
    return mask - eroded[1:-1, 1:-1]


@pytest.mark.parametrize("shape", [(40, 50), (120, 90), (7, 5), (2, 300)])
def test_boundary_iou_equals_erosions_of_the_paper(shape):
    generator = np.random.default_rng(0)
    coarse = [generator.integers(0, 3, (3, 4), dtype=np.uint8) for _ in range(2)]
    label, prediction = (cv2.resize(x, shape[::-1], interpolation=cv2.INTER_NEAREST) for x in coarse)
    label[: shape[0] // 3, : shape[1] // 4] = 255
    counts = metrics.count_boundary_pixels(label, prediction, 4)
    shown = np.where(label == 255, 255, prediction)
    for k in range(4):
        truth, guess = (boundary_by_the_paper((x == k).astype(np.uint8)) for x in (label, shown))
        both, either = (truth & guess).sum(), (truth | guess).sum()
        found = float(metrics.compute_class_scores(counts.numpy())["IoU"][k])
        assert found == pytest.approx(both / either) if either else np.isnan(found)
