"""IoU by object size against a loop over the connected parts that scipy finds."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from segkit.evaluation.evaluators import object_sizes
from segkit.evaluation.evaluators.object_sizes import count_pixels_by_object_size


def list_parts(mask):
    """Return the sets of pixels that are connected in eight directions."""
    numbers, count = ndimage.label(mask, np.ones((3, 3)))
    return [set(zip(*np.nonzero(numbers == k), strict=True)) for k in range(1, count + 1)]


def naive(label, prediction, num_classes, bounds):
    """The definition, an object and a part at a time."""

    def size(pixels):
        return sum(len(pixels) >= bound for bound in bounds)

    out = np.zeros((3, 3, num_classes), np.int64)
    for k in range(num_classes):
        objects = list_parts(label == k)
        inside = {p for pixels in objects for p in pixels}
        for pixels in objects:
            out[size(pixels), 0, k] += sum(prediction[p] == k for p in pixels)
            out[size(pixels), 1, k] += len(pixels)
        out[:, 2, k] += out[:, 0, k]
        for part in list_parts(prediction == k):
            met = [sum(len(part & pixels) for pixels in objects if size(pixels) == s) for s in range(3)]
            s = met.index(max(met)) if max(met) else size(part)
            out[s, 2, k] += sum(label[p] != 255 for p in part - inside)
    return out


SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@st.composite
def pairs(draw):
    shape = draw(SHAPES)
    label = draw(arrays.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 255])))
    prediction = draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, 2)))
    return label, prediction


@settings(deadline=None, max_examples=150)
@given(pairs())
def test_object_counts_equal_a_loop_over_parts(pair):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_sizes, "BOUNDS", [3, 8])  # of pixels: all three sizes fit nine by nine
        assert np.array_equal(count_pixels_by_object_size(*pair, 3), naive(*pair, 3, [3, 8]))


def test_object_size_bounds_are_those_of_coco():
    label = np.zeros((128, 400), np.uint8)
    label[:31, :33], label[:32, 50:82] = 1, 1  # 1023 and 1024 pixels
    label[:95, 100:197], label[:96, 250:346] = 1, 1  # 9215 and 9216
    labeled = count_pixels_by_object_size(label, label, 2)[:, 1, 1]
    assert labeled.tolist() == [1023, 1024 + 9215, 9216]


def test_missed_small_object_lowers_small_iou_only():
    evaluator = object_sizes.build(SimpleNamespace(num_classes=2))
    label = np.zeros((200, 300), np.uint8)
    label[10:20, 10:20], label[50:170, 50:170] = 1, 1
    prediction = label.copy()
    prediction[10:20, 10:20] = 0
    evaluator.update(label, torch.from_numpy(prediction))
    found = evaluator.compute(evaluator.state())
    assert (found.classes["IoU small"][1], found.classes["IoU large"][1]) == (0, 1)
    assert np.isnan(found.classes["IoU medium"][1])
    assert found.scores == {"mIoU_small": 0, "mIoU_large": np.mean(found.classes["IoU large"])}


@pytest.mark.medium
def test_object_sizes_are_printed_and_reported(tiny_run, tmp_path, run_here, capsys):
    words = f"checkpoint={tiny_run}/last.pt output={tmp_path} report=true loader.workers=0"
    assert run_here("test_seg", *words.split(), "evaluation.evaluators.object_sizes=true") == 0
    output = capsys.readouterr().out
    scores = json.loads((tmp_path / "result.json").read_text())["scores"]
    names = [name for name in scores if name in ("mIoU_small", "mIoU_medium", "mIoU_large")]
    assert "mIoU_small" in names
    pages = [page.read_text() for page in tmp_path.rglob("*.html")]
    for name in names:
        assert f"{name} {100 * scores[name]:.2f}" in output
        assert any(name in page for page in pages)
    assert "IoU small" in (tmp_path / "classes.csv").read_text().splitlines()[0]
