"""Our backbones under torchvision's detectors: steps, pyramids, COCO's files and scores; slowly, learning."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torchvision.models.detection import _utils as parts
from torchvision.ops import box_iou

pytest.importorskip("pycocotools", reason="pycocotools, of the extra 'detection', reads COCO's files")
EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))
cascade, coco, detection = (importlib.import_module(name) for name in ("cascade", "coco", "detection"))
sys.path.remove(str(EXAMPLES))

# pycocotools still hands numpy what numpy 2 warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
TINY = {"name": "resnest", "variant": "14", "width": 8}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return coco.Coco(*coco.draw_set(tmp_path_factory.mktemp("drawn"), 4, side=96))


def detector(method, settings=TINY):
    torch.manual_seed(0)
    return detection.METHODS[method](3, settings, thin=True, min_size=96, max_size=96)


@pytest.mark.medium
@pytest.mark.parametrize("method", detection.METHODS)
def test_a_step_of_training_and_one_of_evaluation(method, drawn):
    model = detector(method).train()
    images, targets = zip(*(drawn[i] for i in range(2)), strict=True)
    losses = model(list(images), list(targets))
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.backbone.body.conv1[0].weight.grad.abs().sum() > 0
    found = detection.detect(model, drawn, "cpu")
    assert len(found) == 4
    assert ("masks" in found[0]) == ("mask" in method)
    assert set(drawn.scores(found)) == ({"bbox", "segm"} if "mask" in method else {"bbox"})


@pytest.mark.parametrize(
    ("name", "variant"), [("resnet", "sknet_50"), ("resnet", "cbam_50"), ("resnet", "50")]
)
def test_any_backbone_will_do(name, variant, drawn):
    model = detector("faster_rcnn", {"name": name, "variant": variant, "width": 8, "blocks": [1, 1, 1, 1]})
    images, targets = zip(*(drawn[i] for i in range(2)), strict=True)
    sum(model.train()(list(images), list(targets)).values()).backward()
    gradients = [p.grad for p in model.backbone.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert any(g.count_nonzero() for g in gradients)


def test_the_pyramids_have_the_strides_detectors_expect():
    image = torch.zeros(1, 3, 128, 256)
    for single, strides in ((False, (4, 8, 16, 32, 64)), (True, (8, 16, 32, 64, 128))):
        levels = detection.pyramid(TINY, single=single).eval()(image)
        assert [tuple(level.shape) for level in levels.values()] == [
            (1, 256, 128 // s, 256 // s) for s in strides
        ]  # fmt: skip


def test_a_frozen_normalization_of_timm_still_activates():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), BatchNormAct2d(8, act_layer=nn.SiLU), nn.BatchNorm2d(8))
    network(torch.randn(4, 3, 9, 9))  # gives it statistics
    image = torch.randn(2, 3, 9, 9)
    expected = network.eval()(image)
    detection.freeze_normalization(network)
    torch.testing.assert_close(network.train()(image), expected)


def test_loaded_normalization_is_frozen_and_gives_the_same_features(tmp_path):
    pyramid = detection.pyramid(TINY)
    for norm in (m for m in pyramid.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.running_mean)
    torch.save(pyramid.body.state_dict(), tmp_path / "x.pth")
    frozen = detection.pyramid({**TINY, "weights": str(tmp_path / "x.pth")}).train()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in frozen.modules())
    image = torch.rand(1, 3, 64, 64)  # a training batch of one is fine when frozen
    for ours, theirs in zip(frozen.body(image), pyramid.body.eval()(image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


# ---- the cascade


def test_each_stage_trains_on_what_overlaps_by_its_threshold():
    heads = detector("cascade_rcnn").roi_heads
    draw = torch.Generator().manual_seed(0)
    true = torch.tensor([[10.0, 10.0, 50.0, 50.0], [60.0, 20.0, 90.0, 80.0]])
    proposals = true[torch.randint(2, (300,), generator=draw)] + 8 * torch.randn(300, 4, generator=draw)
    target = {"boxes": true, "labels": torch.tensor([2, 1])}
    for stage, threshold in enumerate((0.5, 0.6, 0.7)):
        (matched,), (labels,) = heads._matched(stage, [proposals], [target])
        overlap, nearest = box_iou(proposals, true).max(1)
        assert torch.equal(labels > 0, overlap >= threshold)
        assert torch.equal(matched[labels > 0], nearest[labels > 0])
        assert torch.equal(labels[labels > 0], target["labels"][nearest][labels > 0])


def test_a_perfect_regression_refines_every_box_to_the_true_one():
    heads = detector("cascade_rcnn").roi_heads
    true = torch.tensor([[10.0, 10.0, 50.0, 50.0]])
    proposals = true + torch.tensor([[3.0, -2.0, 5.0, 1.0]])
    for stage, weights in enumerate(((10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15))):
        deltas = torch.cat(parts.BoxCoder(tuple(map(float, weights))).encode([true], [proposals]))
        torch.testing.assert_close(heads._refined(stage, deltas, [proposals], [(96, 96)]), [true])


def test_scores_are_the_mean_of_the_stages_and_boxes_those_of_the_last(monkeypatch):
    heads = detector("cascade_rcnn").eval().roi_heads
    proposals, given = [torch.tensor([[20.0, 20.0, 60.0, 60.0]])], []
    logits = [torch.tensor([[0.0, t, -t]]) for t in (1.0, 2.0, 0.5)]
    steps = [torch.tensor([[0.5 * t, 0.0, 0.0, 0.0]]) for t in (1.0, 2.0, 3.0)]  # each 40 / 20 to the right
    for module, answer in zip(heads.box_predictors, zip(logits, steps, strict=True), strict=True):
        monkeypatch.setattr(module, "forward", lambda x, answer=answer: answer)
    monkeypatch.setattr(heads, "postprocess_detections", lambda *told: given.extend(told) or ([], [], []))
    heads(
        {str(i): torch.zeros(1, 64, 96 // s, 96 // s) for i, s in enumerate((4, 8, 16, 32))},
        proposals,
        [(96, 96)],
    )
    told, deltas, before, _ = given
    torch.testing.assert_close(told.softmax(1), sum(x.softmax(1) for x in logits) / 3)
    boxes = heads.box_coder.decode(deltas, before)
    shift = 40 * (0.5 / 10 + 1.0 / 20 + 1.5 / 30)
    expected = torch.tensor([20.0 + shift, 20.0, 60.0 + shift, 60.0])
    torch.testing.assert_close(boxes, expected.expand(1, 3, 4))


def test_an_image_without_objects_trains(drawn):
    image, target = drawn[0]
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    nothing["masks"] = torch.zeros(0, *image.shape[1:], dtype=torch.uint8)
    for method in ("cascade_mask_rcnn", "retinanet"):
        losses = detector(method).train()([image, image], [target, nothing])
        assert all(loss.isfinite() for loss in losses.values())


# ---- COCO's files


def test_drawn_files_are_read_as_they_were_drawn(drawn):
    for index in range(4):
        image, objects = coco.draw_scene(index, side=96)
        read, target = drawn[index]
        assert np.array_equal((read.permute(1, 2, 0) * 255).round().byte().numpy(), image)
        for n, told in enumerate(objects):
            x, y, width, height = told["bbox"]
            assert target["boxes"][n].tolist() == [x, y, x + width, y + height]
            rows, columns = np.nonzero(target["masks"][n].numpy())
            assert (columns.min(), rows.min()) == (x, y)
            assert (columns.max() + 1, rows.max() + 1) == (x + width, y + height)


def test_a_mirrored_target_fits_the_mirrored_image(drawn):
    image, target = drawn[0]
    turned, there = detection.mirrored(image, target)
    again, back = detection.mirrored(turned, there)
    assert torch.equal(again, image)
    torch.testing.assert_close(back["boxes"], target["boxes"])
    for (left, top, right, bottom), mask in zip(there["boxes"].int().tolist(), there["masks"], strict=True):
        assert mask.sum() == mask[top:bottom, left:right].sum() > 0


def test_the_truth_itself_scores_a_hundred_and_half_of_it_about_half(drawn):
    truth = [
        {**target, "scores": torch.ones(2), "masks": target["masks"][:, None].float()}
        for _, target in (drawn[i] for i in range(4))
    ]
    scores = drawn.scores(truth)
    assert scores["bbox"]["AP"] == scores["segm"]["AP"] == pytest.approx(100)
    half = [{name: value[:1] for name, value in each.items()} for each in truth]  # squares alone
    assert drawn.scores(half)["bbox"]["AP"] == pytest.approx(50)
    assert drawn.scores([{**each, "scores": torch.zeros(0), "boxes": each["boxes"][:0]} for each in truth])[
        "bbox"
    ] == dict.fromkeys(coco.FIGURES, 0.0)


def test_what_is_wrong_with_the_files_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json: there is no such file; give COCO's annotations"):
        coco.Coco(tmp_path / "none.json", tmp_path)
    (tmp_path / "x.json").write_text("[1, 2")
    with pytest.raises(ValueError, match=r"x\.json: not an annotation file of COCO"):
        coco.Coco(tmp_path / "x.json", tmp_path)
    file, images = coco.draw_set(tmp_path / "set", 2)
    (images / "00001.png").unlink()
    with pytest.raises(ValueError, match=r"00001\.png: cannot be read .*instances\.json names it"):
        coco.Coco(file, images)[1]
    (tmp_path / "empty.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(ValueError, match=r"empty\.json: 0 images and 0 categories"):
        coco.Coco(tmp_path / "empty.json", tmp_path)


# ---- learning, by the command


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mask_rcnn", "cascade_mask_rcnn"])
def test_a_thin_detector_learns_drawn_boxes_and_masks(method):
    command = [sys.executable, str(EXAMPLES / "detection.py"), "--method", method, "--device", "cpu"]
    path = {"PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | path, check=True)
    scores = dict(re.findall(r"^(bbox|segm): AP ([\d.]+)", done.stdout, re.MULTILINE))
    assert {kind: float(score) > 50 for kind, score in scores.items()} == {"bbox": True, "segm": True}
