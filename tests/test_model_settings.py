"""Every model, backbone and head of conf/model can be built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import segkit
from segkit.models import segmenter

CONF = Path(__file__).parent.parent / "conf"
MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))
BACKBONES = sorted(file.stem for file in (CONF / "model" / "backbone").glob("*.yaml"))
HEADS = sorted(file.stem for file in (CONF / "model" / "head").glob("*.yaml"))


def model_of(*choices: str) -> segmenter.Segmenter:
    settings = segkit.compose_settings("train", ["data=shapes", *choices])
    with torch.device("meta"):
        return segmenter.build(7, **segmenter.without_weights(settings["model"]))


def shape_of_logits(model: segmenter.Segmenter) -> tuple[int, ...]:
    return tuple(model.eval()(torch.empty(1, 3, 64, 96, device="meta")).main.shape)


@pytest.mark.medium
@pytest.mark.parametrize("name", MODELS)
def test_every_model_file_can_be_built(name):
    assert shape_of_logits(model_of(f"model={name}")) == (1, 7, 64, 96)


@pytest.mark.medium
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_can_be_chosen(name):
    more = ["++model.backbone.variant=convnext_atto"] if name == "timm" else []
    assert shape_of_logits(model_of(f"model/backbone={name}", *more)) == (1, 7, 64, 96)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_can_be_chosen(name):
    assert shape_of_logits(model_of(f"model/head={name}")) == (1, 7, 64, 96)


def test_auxiliary_head_can_be_omitted_or_moved():
    assert model_of("model/auxiliary=none").auxiliary is None
    assert model_of("model.auxiliary.stage=2").auxiliary.stage == 2


def test_stride_and_rates_can_be_set():
    model = model_of("model.backbone.output_stride=16", "model.head.atrous_rates=[1,2,3]")
    assert model.backbone.output_stride == 16
    assert model.head.aspp.b3[0].dilation == (3, 3)


def test_an_empty_value_range_is_refused():
    with pytest.raises(ValueError, match=r"model\.value_range has 0"):
        model_of("model.value_range=[]")


def test_demo_model_has_two_million_parameters():
    assert sum(p.numel() for p in model_of("model=deeplabv3_demo").parameters()) < 2_000_000
