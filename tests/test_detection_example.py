"""A ResNeSt under torchvision's detectors trains a step and finds boxes and masks."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLE = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "detection.py"))


def detector(kind: str, **settings):
    torch.manual_seed(0)
    backbone = EXAMPLE["pyramid"]("14", width=8, **settings)
    few = {"rpn_post_nms_top_n_train": 50, "rpn_post_nms_top_n_test": 20, "box_batch_size_per_image": 16}
    return EXAMPLE[kind](3, backbone, min_size=96, max_size=96, **few)


@pytest.mark.parametrize(("kind", "losses"), [("faster_rcnn", 4), ("mask_rcnn", 5)])
def test_a_step_of_training_and_one_of_evaluation(kind, losses):
    model = detector(kind).train()
    pictures, targets = zip(*(EXAMPLE["drawn_scene"](i, side=96) for i in range(2)), strict=True)
    found = model(list(pictures), list(targets))
    assert len(found) == losses
    loss = sum(found.values())
    assert loss.isfinite()
    loss.backward()
    stem, last = model.backbone.body.conv1[0], model.backbone.body.layer4[0].conv2.fc2
    assert stem.weight.grad.abs().sum() > 0
    assert last.weight.grad.abs().sum() > 0
    with torch.inference_mode():
        answer = model.eval()([pictures[0]])[0]
    assert set(answer) == {"boxes", "labels", "scores"} | ({"masks"} if kind == "mask_rcnn" else set())
    assert answer["boxes"].shape == (len(answer["labels"]), 4)
    if kind == "mask_rcnn":
        assert answer["masks"].shape[1:] == (1, 96, 96)


def test_the_pyramid_has_the_strides_detectors_expect():
    levels = EXAMPLE["pyramid"]("14", width=8).eval()(torch.zeros(1, 3, 128, 192))
    assert [tuple(level.shape) for level in levels.values()] == [
        (1, 256, 128 // s, 192 // s) for s in (4, 8, 16, 32, 64)
    ]  # fmt: skip


def test_loaded_normalisation_is_frozen_and_gives_the_same_features(tmp_path):
    pyramid = EXAMPLE["pyramid"]("14", width=8)
    for norm in (m for m in pyramid.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.running_mean)
    torch.save(pyramid.body.state_dict(), tmp_path / "x.pth")
    frozen = EXAMPLE["pyramid"]("14", width=8, weights=str(tmp_path / "x.pth")).train()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in frozen.modules())
    image = torch.rand(1, 3, 64, 64)  # a training batch of one is fine when frozen
    for ours, theirs in zip(frozen.body(image), pyramid.body.eval()(image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_drawn_boxes_hold_the_drawn_masks():
    for seed in range(20):
        _, target = EXAMPLE["drawn_scene"](seed)
        for (x1, y1, x2, y2), mask in zip(target["boxes"].int().tolist(), target["masks"], strict=True):
            assert mask.sum() > 0
            assert mask.sum() == mask[y1:y2, x1:x2].sum()
