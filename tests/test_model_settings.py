"""Every model, backbone and head of conf/model can be built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import segkit
from segkit.models import segmenter

CONF = Path(__file__).parent.parent / "conf"
GROUPS = ("model", "model/backbone", "model/head")
CHOICES = [f"{group}={file.stem}" for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]


def model_of(*choices: str) -> segmenter.Segmenter:
    settings = segkit.compose_settings("train", ["data=shapes", *choices])
    with torch.device("meta"):
        return segmenter.build(7, **segmenter.remove_weights(settings["model"]))


@pytest.mark.medium
@pytest.mark.parametrize("choice", CHOICES)
def test_every_model_backbone_and_head_can_be_chosen(choice):
    more = ["++model.backbone.variant=convnext_atto"] if choice == "model/backbone=timm" else []
    model = model_of(choice, *more).eval()
    assert model(torch.empty(1, 3, 64, 96, device="meta")).main.shape == (1, 7, 64, 96)


def test_auxiliary_head_can_be_omitted_or_moved():
    assert model_of("model/auxiliary=none").auxiliary is None
    assert model_of("model.auxiliary.stage=2").auxiliary.stage == 2


def test_an_empty_value_range_is_refused():
    with pytest.raises(ValueError, match=r"model\.value_range has 0"):
        model_of("model.value_range=[]")
