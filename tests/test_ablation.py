"""The sweep of attention blocks compares them on equal terms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from segkit.config.compose import compose_settings
from segkit.models import segmenter

FILE = Path(__file__).parent.parent / "conf" / "experiment" / "ablation.yaml"
SWEPT = yaml.safe_load(FILE.read_text())["hydra"]["sweeper"]["params"]
BACKBONES = SWEPT["model/backbone"].split(",")


def settings_of(backbone, *more):
    return compose_settings("train", ["experiment=ablation", f"model/backbone={backbone}", *more])


def test_ablation_compares_seven_blocks_and_three_seeds():
    assert len(BACKBONES) == 7
    assert SWEPT["++seed"] == "0,1,2"  # as the command line writes seed=3, which then takes its place


@pytest.mark.medium
@pytest.mark.parametrize("backbone", BACKBONES)
def test_ablation_settings_differ_in_the_block_only(backbone):
    ours, plain = settings_of(backbone), settings_of("resnet")
    terms = ("width", "blocks", "stem_width", "average_down", "pool", "output_stride")
    assert [ours["model"]["backbone"][t] for t in terms] == [plain["model"]["backbone"][t] for t in terms]
    with torch.device("meta"):
        model = segmenter.build(10, **ours["model"])
    for rest in (ours, plain):
        del rest["model"]["backbone"]
    assert ours == plain
    assert [len(getattr(model.backbone, f"layer{i}")) for i in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert model.backbone.out_channels == [64, 128, 256, 512]
    assert isinstance(model.backbone.layer2[0].pool, torch.nn.AvgPool2d)
    assert len(model.backbone.conv1) == 7


def test_ablation_settings_are_equal_for_photographs():
    drawn, real = (settings_of("resnest", f"data={data}") for data in ("shapes", "camvid"))
    assert drawn["schedule"] == real["schedule"]
    assert drawn["model"] == real["model"]
    assert list(real["augment"]["crop_size"]) == [240, 320]
