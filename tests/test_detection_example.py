"""Our backbones under torchvision's detectors: steps, pyramids, COCO's files and scores; slowly, learning."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
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
def drawn_set(tmp_path_factory):
    return coco.Coco(*coco.draw_set(tmp_path_factory.mktemp("drawn"), 4, side=96))


def detector(method, settings=TINY):
    torch.manual_seed(0)
    return detection.METHODS[method](3, settings, thin=True, min_size=96, max_size=96)


@pytest.mark.medium
@pytest.mark.parametrize("method", detection.METHODS)
def test_detector_trains_and_evaluates(method, drawn_set):
    model = detector(method).train()
    images, targets = zip(*(drawn_set[i] for i in range(2)), strict=True)
    losses = model(list(images), list(targets))
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.backbone.body.conv1[0].weight.grad.abs().sum() > 0
    found = detection.detect(model, drawn_set, "cpu")
    assert len(found) == 4
    assert ("masks" in found[0]) == ("mask" in method)
    assert set(drawn_set.scores(found)) == ({"bbox", "segm"} if "mask" in method else {"bbox"})


# ---- the cascade


def test_cascade_stages_match_by_their_thresholds():
    heads = detector("cascade_rcnn").roi_heads
    draw = torch.Generator().manual_seed(0)
    true = torch.tensor([[10.0, 10.0, 50.0, 50.0], [60.0, 20.0, 90.0, 80.0]])
    proposals = true[torch.randint(2, (300,), generator=draw)] + 8 * torch.randn(300, 4, generator=draw)
    target = {"boxes": true, "labels": torch.tensor([2, 1])}
    for stage, threshold in enumerate((0.5, 0.6, 0.7)):
        (matched,), (labels,) = heads._match(stage, [proposals], [target])
        overlap, nearest = box_iou(proposals, true).max(1)
        assert torch.equal(labels > 0, overlap >= threshold)
        assert torch.equal(matched[labels > 0], nearest[labels > 0])
        assert torch.equal(labels[labels > 0], target["labels"][nearest][labels > 0])


# ---- COCO's files


def test_coco_scores_of_ground_truth(drawn_set):
    truth = [
        {**target, "scores": torch.ones(2), "masks": target["masks"][:, None].float()}
        for _, target in (drawn_set[i] for i in range(4))
    ]
    scores = drawn_set.scores(truth)
    assert scores["bbox"]["AP"] == scores["segm"]["AP"] == pytest.approx(100)
    half = [{name: value[:1] for name, value in each.items()} for each in truth]  # squares alone
    assert drawn_set.scores(half)["bbox"]["AP"] == pytest.approx(50)
    assert drawn_set.scores(
        [{**each, "scores": torch.zeros(0), "boxes": each["boxes"][:0]} for each in truth]
    )["bbox"] == dict.fromkeys(coco.FIGURES, 0.0)


# ---- learning, by the command


def test_default_backbone_is_thin_and_needs_no_weights():
    _, settings = detection.parse_arguments([])
    assert (settings["width"], settings["weights"]) == (16, None)
    detection.build_pyramid(settings)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mask_rcnn", "cascade_mask_rcnn"])
def test_detection_command_learns_boxes_and_masks(method):
    command = [sys.executable, str(EXAMPLES / "detection.py"), "--method", method, "--device", "cpu"]
    path = {"PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | path, check=True)
    scores = dict(re.findall(r"^(bbox|segm): AP ([\d.]+)", done.stdout, re.MULTILINE))
    assert {kind: float(score) > 50 for kind, score in scores.items()} == {"bbox": True, "segm": True}
