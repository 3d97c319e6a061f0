"""More than 255 classes: ids are int16 then, and 255 is a class like any other."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from test_export import build_thin_model, export_model

from conftest import run_script, write_folder
from segkit.config import registry
from segkit.data import transforms
from segkit.data.label_map import Entry, LabelMap
from segkit.evaluation import metrics
from segkit.evaluation.evaluators import object_sizes
from segkit.inference import predict
from segkit.inference.protocol import Protocol
from segkit.types import (
    IGNORE_INDEX,
    MAX_CLASSES,
    Logits,
    Sample,
    class_id_dtype,
    ignore_index,
    label_ignore_index,
)
from segkit.visualize import overlays

LOSSES = {
    "cross_entropy": {"label_smoothing": 0.1},
    "focal": {"gamma": 1.5},
    "ohem": {"threshold": 0.3, "min_kept": 9},
    "dice": {},
    "lovasz": {},
    "mixed": {"parts": {"cross_entropy": {}, "dice": {"over": "batch"}, "lovasz": {"weight": 0.5}}},
}


def make_label_map(num_classes):
    entries = [Entry(3 * k + 1, f"class {k}", (k // 256, k % 256, 7)) for k in range(num_classes)]
    return LabelMap("many", (*entries, Entry(65535, "not scored", (255, 255, 255), ignore=True)))


def random_label(draw, num_classes, size):
    """Class ids with 255 among them, and pixels that are not scored."""
    label = draw.integers(0, num_classes, size).astype(class_id_dtype(num_classes))
    label[draw.random(size) < 0.2] = ignore_index(num_classes)
    label[draw.random(size) < 0.1] = min(255, num_classes - 1)
    return label


@pytest.mark.parametrize("num_classes", [1, 254, 255, 256, 847, 1000, MAX_CLASSES])
def test_ignore_index_is_the_largest_id_of_its_type(num_classes):
    label = np.zeros(1, class_id_dtype(num_classes))
    assert ignore_index(num_classes) == np.iinfo(label.dtype).max >= num_classes
    assert (
        label_ignore_index(label) == label_ignore_index(torch.from_numpy(label)) == ignore_index(num_classes)
    )


@pytest.mark.parametrize("num_classes", [200, 255, 256, 847])
def test_label_map_round_trips_wide_masks(num_classes, tmp_path):
    table, draw = make_label_map(num_classes), np.random.default_rng(num_classes)
    expected = random_label(draw, num_classes, (31, 45))
    scored = expected != ignore_index(num_classes)
    raw = np.where(scored, 3 * expected.astype(np.uint16) + 1, 65535).astype(np.uint16)
    found = table.encode(raw, "a.png")
    assert found.dtype == class_id_dtype(num_classes)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(table.decode(found), raw)
    colors = overlays.colorize(found, table.colors, ignored=(255, 255, 255))
    np.testing.assert_array_equal(table.encode(colors, "a.png"), expected)
    file = overlays.save_image(tmp_path / "a.png", table.decode(found))
    np.testing.assert_array_equal(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), raw)
    small = LabelMap("some", table.entries[:80] + table.entries[-1:])  # bytes as stored
    np.testing.assert_array_equal(small.encode(np.uint8([[1, 238]]), "b.png"), [[0, 79]])


def test_uint8_masks_are_read_by_wide_label_maps():
    table = LabelMap("many", tuple(Entry(k, str(k), (0, 0, 0), k == 9) for k in range(400)))
    found = table.encode(np.arange(256, dtype=np.uint8)[None], "a.png")
    assert found.dtype == np.int16
    assert found[0].tolist() == [*range(9), MAX_CLASSES, *range(9, 255)]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_loss_of_many_classes_equals_that_of_few(name, coarse, seed):
    """A network of 300 classes that never thinks of most, against one that has only the others.

    The reference has the classes of 0 to 59, so it is read with bytes, and what those do is tested elsewhere.
    """
    draw = np.random.default_rng(seed)
    size, few, many = (2, 9, 11), 60, 300
    own = np.append(draw.permutation(many)[: few - 1], 255) if seed % 2 else draw.permutation(many)[:few]
    if len(set(own)) < few:
        own = np.arange(240, 300)
    label = random_label(draw, few, size)
    wide = np.where(label == IGNORE_INDEX, MAX_CLASSES, own[np.minimum(label, few - 1)]).astype(np.int16)
    cells = (5, 4) if coarse else size[1:]
    logits = torch.from_numpy(draw.normal(0, 2, (2, few, *cells))).requires_grad_()
    spread = torch.full((2, many, *cells), -1000.0, dtype=torch.float64)
    spread[:, own] = logits.detach()
    spread.requires_grad_()
    keywords = LOSSES[name] if name != "cross_entropy" else {}  # smoothing looks at all classes
    small, large = (
        registry.build("losses", {"name": name, **keywords}, num_classes=count) for count in (few, many)
    )
    expected = small(Logits(logits), torch.from_numpy(label))["main"].sum()
    found = large(Logits(spread), torch.from_numpy(wide))["main"].sum()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    weights = [loss.compute_weight(torch.from_numpy(x)) for loss, x in ((small, label), (large, wide))]
    torch.testing.assert_close(weights[1], weights[0])
    expected.backward()
    found.backward()
    torch.testing.assert_close(spread.grad[:, own], logits.grad, rtol=1e-7, atol=1e-12)


def test_cross_entropy_equals_torch_for_300_classes():
    draw = np.random.default_rng(0)
    label = random_label(draw, 300, (2, 13, 17))
    logits = torch.from_numpy(draw.normal(0, 3, (2, 300, 13, 17)))
    loss = registry.build("losses", {"name": "cross_entropy", "label_smoothing": 0.1}, num_classes=300)
    target = torch.from_numpy(np.where(label == MAX_CLASSES, -100, label)).long()
    expected = torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1)
    found = loss(Logits(logits), torch.from_numpy(label))["main"]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("num_classes", [3, 255, 256, 700])
def test_confusion_matrix_counts_every_pair_of_many_classes(num_classes):
    draw = np.random.default_rng(num_classes)
    table, matrix = make_label_map(num_classes), metrics.ConfusionMatrix(num_classes)
    expected = np.zeros((num_classes, num_classes), np.int64)
    for _ in range(4):
        label = random_label(draw, num_classes, (19, 23))
        prediction = np.where(draw.random(label.shape) < 0.5, label, label[::-1])
        prediction[prediction == ignore_index(num_classes)] = num_classes - 1
        matrix.update(label, prediction)
        scored = label != ignore_index(num_classes)
        np.add.at(expected, (label[scored], prediction[scored]), 1)
        one = metrics.ConfusionMatrix(num_classes)
        one.update(label, prediction)
        sizes = object_sizes.count_pixels_by_object_size(label, prediction, num_classes).sum(0)
        np.testing.assert_array_equal(sizes[0], one.counts.diagonal())
        np.testing.assert_array_equal(sizes[1], one.counts.sum(1))
        np.testing.assert_array_equal(sizes[2], one.counts.sum(0))
        near = metrics.count_boundary_pixels(label, prediction, num_classes)  # all is near: it is noise
        np.testing.assert_array_equal(near[0], one.counts.diagonal())
        assert overlays.present_classes([label]) == sorted(one.counts.sum(1).nonzero()[:, 0].tolist())
        drawn = overlays.draw_error_map(label, prediction)
        gray = (drawn == overlays.IGNORED).all(2)
        np.testing.assert_array_equal(gray, ~scored)
    np.testing.assert_array_equal(matrix.counts, expected)
    assert overlays.draw_confusion_matrix(expected, table.names).shape[0] < 2000


@pytest.mark.parametrize("resize", ["pil_bilinear", "opencv_linear"])
@pytest.mark.parametrize("seed", range(8))
def test_augmentation_treats_int16_labels_like_uint8(resize, seed):
    """The same draws, the same pixels: ids 0 to 99 as bytes, and the same plus 300 as int16."""
    draw = np.random.default_rng(seed)
    label = random_label(draw, 100, (int(draw.integers(20, 90)), int(draw.integers(20, 90))))
    image = draw.integers(0, 256, (*label.shape, 3), np.uint8)
    wide = np.where(label == IGNORE_INDEX, MAX_CLASSES, label.astype(np.int16) + 300).astype(np.int16)
    augment = transforms.build(
        crop_size=64, base_size=80, resize=resize, rotation=15.0 * (seed % 2), max_class_ratio=0.3
    )
    found = [augment(Sample(image, ids, "a"), seed) for ids in (label, wide)]
    np.testing.assert_array_equal(found[0].image, found[1].image)
    assert found[1].label.dtype == np.int16
    back = np.where(found[1].label == MAX_CLASSES, IGNORE_INDEX, found[1].label - 300)
    # OpenCV turns each type with another kernel, and rounds a tie of neighbors its own way
    assert (back == found[0].label).mean() >= (0.998 if seed % 2 else 1)


@pytest.mark.medium
@pytest.mark.parametrize("format", ["onnx", "openvino", "torch_export"])
def test_exports_of_300_classes_keep_the_predictions(format, tmp_path):
    from segkit import export

    model = build_thin_model("resnest", "fcn", num_classes=300)
    with torch.no_grad():
        model.head.conv5[4].bias[250:] += 10
    suffix = {"onnx": ".onnx", "openvino": ".xml", "torch_export": ".pt2"}[format]
    file = export_model(model, tmp_path / f"net{suffix}", export.ExportKind(format=format, interface="ids"))
    size = (65, 97, 3)  # PyTorch 2.11 exports for these alone
    image = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    found, expected = (predict(network, image, Protocol(name="whole")) for network in (file, model))
    assert found.dtype == expected.dtype == torch.int16
    assert expected.max() > 255
    assert (found == expected).double().mean() > 0.99


@pytest.mark.medium
def test_300_classes_work_in_every_command(tmp_path, run_here):
    """Masks have 16 bits."""
    root, runs = tmp_path / "set", tmp_path / "runs"
    names = [f"{split}/{index}" for split, count in (("train", 12), ("val", 3)) for index in range(count)]
    write_folder(root, names, [f"thing {k}" for k in range(300)], (48, 64))
    assert "thing 299" in run_script("folder", "stats", "--root", root)
    small = "model=deeplabv3_demo model.backbone.width=8 model.head.width=8 schedule.iterations=6"
    more = "schedule.batch_size=4 loader.workers=0 evaluation.evaluators={boundary:true,object_sizes:true}"
    where = f"data=folder data.root={root} run_dir={runs} run_name=a"
    assert run_here("train_seg", *small.split(), *where.split(), *more.split()) == 0
    best = f"checkpoint={runs / 'a/best.pt'}"
    assert run_here("test_seg", best, f"output={tmp_path / 'scores'}", "loader.workers=0") == 0
    assert "thing 299" in (tmp_path / "scores/result.json").read_text()
    out = [f"input={root / 'images/val'}", f"output={tmp_path / 'out'}", "save=[ids,colors,probabilities]"]
    assert run_here("predict_seg", best, *out) == 0
    ids = cv2.imread(str(tmp_path / "out/ids/0.png"), cv2.IMREAD_UNCHANGED)
    scores = np.load(tmp_path / "out/probabilities/0.npz")["probabilities"]
    np.testing.assert_array_equal(np.take_along_axis(scores, ids[None].astype(int), 0)[0], scores.max(0))
    assert len(scores) == 300
    assert ids.dtype == np.uint16
    assert ids.shape == (48, 64)
