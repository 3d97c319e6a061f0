"""Default commands train the published recipes; the numbers are transcribed from the publications."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from conftest import ROOT
from segkit import inference, training
from segkit.config import registry
from segkit.config.cli import command
from segkit.config.compose import CONF, compose_settings
from segkit.data import transforms

# Transcribed from the publications, not from conf/. PyTorch-Encoding and GluonCV: SGD 0.01 at a batch of 16
# (linear rule), momentum 0.9, weight decay 1e-4 on everything, heads x10, poly 0.9 to zero; the long side in
# 0.5 .. 2 of the base.
ORIGINAL = {
    "schedule.iterations": None,
    "schedule.head_lr_multiplier": 10,
    "schedule.decay_norm_and_bias": True,
    "schedule.optimizer.name": "sgd",
    "schedule.optimizer.momentum": 0.9,
    "schedule.optimizer.weight_decay": 1e-4,
    "schedule.lr_schedule.name": "poly",
    "schedule.lr_schedule.power": 0.9,
    "schedule.lr_schedule.final": 0.0,
    "schedule.lr_schedule.warmup": "encoding",
    "schedule.drop_last": True,
    "augment.scales": [0.5, 2.0],
    "augment.hflip": 0.5,
    "augment.color_jitter": 0.0,
    "augment.max_class_ratio": 1.0,
    "model.backbone.output_stride": 8,
    "model.backbone.weights": "imagenet",
    "model.align_corners": True,
    "evaluation.name": "whole",
    "evaluation.scales": [1.0],
    "evaluation.every": 1,
}
ADE20K = ORIGINAL | {
    "data.name": "ade20k",
    "augment.base_size": 520,
    "augment.crop_size": 480,
    "sizes.crop": 480,
    "schedule.batch_size": 16,
    "schedule.lr": 0.01,
}
CITYSCAPES = ORIGINAL | {
    "data.name": "cityscapes",
    "augment.base_size": 2048,
    "augment.crop_size": 768,
    "sizes.crop": 768,
    "schedule.batch_size": 8,
    "schedule.lr": 0.005,
    "schedule.epochs": 240,
}
ENCODING = {"loss.aux_weight": 0.2, "loss.average": "scored", "augment.blur": 0.0}
GLUONCV = {"loss.aux_weight": 0.5, "loss.average": "scored", "augment.blur": 0.5}
# mmsegmentation: SGD 0.01, momentum 0.9, weight decay 5e-4, heads x1, poly 0.9 to 1e-4 (a hundredth of 0.01)
MMSEG = {
    "schedule.epochs": None,
    "schedule.head_lr_multiplier": 1,
    "schedule.lr": 0.01,
    "schedule.optimizer.name": "sgd",
    "schedule.optimizer.momentum": 0.9,
    "schedule.optimizer.weight_decay": 5e-4,
    "schedule.lr_schedule.name": "poly",
    "schedule.lr_schedule.power": 0.9,
    "schedule.lr_schedule.final": 0.01,
    "schedule.lr_schedule.warmup": "mmseg",
    "schedule.drop_last": False,
    "loss.aux_weight": 0.4,
    "loss.average": "all",
    "augment.scales": [0.5, 2.0],
    "augment.max_class_ratio": 0.75,
    "augment.color_jitter": 0.5,
    "augment.blur": 0.0,
    "model.align_corners": False,
}
MMSEG_ADE20K = MMSEG | {
    "data.name": "ade20k",
    "augment.base_size": [2048, 512],
    "augment.crop_size": 512,
    "sizes.crop": 512,
    "schedule.batch_size": 16,
    "schedule.iterations": 160000,
    "evaluation.every": 16000,
}
MMSEG_CITYSCAPES = MMSEG | {
    "data.name": "cityscapes",
    "augment.base_size": [2048, 1024],
    "augment.crop_size": [512, 1024],
    "sizes.crop": [512, 1024],
    "schedule.batch_size": 8,
    "schedule.iterations": 80000,
    "evaluation.every": 8000,
}
OPENMMLAB = "https://download.openmmlab.com/pretrain/third_party/"
RESNEST101_MMSEG = {"model.backbone.weights": OPENMMLAB + "resnest101_d2-f3b931b2.pth"}
RESNET101_MMSEG = {"model.backbone.weights": OPENMMLAB + "resnet101_v1c-e67eebb6.pth"}
PUBLISHED = {
    **{
        (f"deeplabv3_{name}", "ade20k"): ADE20K | authors | {"schedule.epochs": epochs}
        for name, authors, epochs in (
            ("resnest50", ENCODING, 120),
            ("resnest101", ENCODING, 180),
            ("resnest200", ENCODING, 180),
            ("resnest269", ENCODING, 180),
            ("resnet50", GLUONCV, 120),
            ("resnet101", GLUONCV, 180),
        )
    },
    ("fcn_resnest50", "ade20k"): ADE20K | ENCODING | {"schedule.epochs": 120},
    **{
        (f"deeplabv3_{name}", "cityscapes"): CITYSCAPES | GLUONCV
        for name in ("resnet50", "resnet101", "resnest50", "resnest101", "resnest200")
    },
    ("deeplabv3_resnest101_mmseg", "ade20k"): MMSEG_ADE20K | RESNEST101_MMSEG,
    ("deeplabv3_resnest101_mmseg", "cityscapes"): MMSEG_CITYSCAPES | RESNEST101_MMSEG,
    ("deeplabv3_resnet101_mmseg", "cityscapes"): MMSEG_CITYSCAPES | RESNET101_MMSEG,
}
FAST = {  # MosaicML: batch 128, 0.08, weight decay 5e-5, 128 epochs, average of the weights, channels-last
    "data.name": "ade20k",
    "schedule.batch_size": 128,
    "schedule.lr": 0.08,
    "schedule.epochs": 128,
    "schedule.iterations": None,
    "schedule.optimizer.name": "sgd",
    "schedule.optimizer.weight_decay": 5e-5,
    "loss.parts.cross_entropy.weight": 0.375,
    "loss.parts.dice.weight": 1.125,
    "runtime.channels_last": True,
    "runtime.precision": "bf16",
    "model.backbone.weights": "imagenet",
    "evaluation.every": 1,
}


def flat(settings, path=""):
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", list(value) if isinstance(value, tuple) else value


def compose(*typed):
    return dict(flat(compose_settings("train", ["run_name=test", *typed])))


def assert_settings(settings, expected):
    assert {key: settings[key] for key in expected} == expected


@pytest.mark.medium
@pytest.mark.parametrize(("model", "data"), PUBLISHED, ids=lambda word: word)
def test_model_and_data_choose_the_published_recipe(model, data):
    assert_settings(compose(f"model={model}", f"data={data}"), PUBLISHED[model, data])


def test_fast_ade20k_has_its_published_numbers():
    fast = compose("experiment=fast_ade20k")
    assert_settings(fast, FAST)
    assert fast["schedule.ema"] is not None
    assert fast["schedule.lr_schedule.warmup_iterations"] > 0
    assert fast["schedule.lr"] / fast["schedule.batch_size"] == 0.01 / 16  # the linear rule


@pytest.mark.parametrize(
    ("data", "model"), [("folder", "deeplabv3_demo"), ("camvid", "deeplabv3_resnest101")]
)
def test_pair_without_recipe_trains_with_defaults(data, model):
    defaults = {
        "schedule.epochs": 50,
        "schedule.batch_size": 16,
        "schedule.lr": 0.01,
        "schedule.head_lr_multiplier": 10,
        "loss.aux_weight": 0.2,
        "model.backbone.weights": None if "demo" in model else "imagenet",
    }
    assert_settings(compose(f"data={data}", f"model={model}"), defaults)


HEADLINE = ("model=deeplabv3_resnest101", "data=ade20k")


@pytest.mark.medium
def test_conf_has_100_files_and_main_command_merges_16(run_here, capsys):
    assert len(list(CONF.rglob("*.yaml"))) <= 100
    assert run_here("train_seg", *HEADLINE, "--info", "defaults") == 0
    rows = {line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if "|" in line}
    merged = [word for word in rows if (CONF / f"{word}.yaml").is_file()]
    assert "recipe/base/encoding" in merged
    assert len(merged) <= 16


@pytest.mark.parametrize(
    ("base", "typed"),
    [
        (HEADLINE, ["model/backbone=resnet", "model.backbone.variant=101d"]),
        (("model=deeplabv3_resnet50", "data=cityscapes"), ["model.backbone.variant=101"]),
        (("experiment=camvid_cpu",), ["model.backbone.variant=50"]),
    ],
)
def test_another_backbone_keeps_all_other_settings(base, typed):
    before, after = compose(*base), compose(*base, *typed)
    changed = {key for key in before | after if before.get(key, "-") != after.get(key, "-")}
    assert all(key.startswith("model.backbone.") for key in changed)
    assert not changed & {"model.backbone.weights", "model.backbone.output_stride"}
    if typed[0].startswith("model.backbone.variant"):
        assert changed == {"model.backbone.variant"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["model=deeplabv3_resnest101", "data=ade20k"], False),
        (["model=deeplabv3_resnest101", "data=camvid"], True),
        (["experiment=demo"], False),
        (["model=deeplabv3_resnest101", "data=camvid", "resume=true"], False),  # the run has its own settings
    ],
)
def test_pair_without_recipe_is_announced(arguments, expected, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_seg.py", *arguments])
    seen = []
    command("train")(seen.append)()
    assert len(seen) == 1
    note = "no published recipe for camvid + deeplabv3_resnest101; using the defaults"
    assert (note in capsys.readouterr().out) is expected


OF_MMSEG = "model=deeplabv3_resnest101_mmseg"
OVERRIDES = [
    ("schedule=default", {"schedule.epochs": 50, "model.backbone.weights": "imagenet"}),
    ("recipe=cityscapes/deeplabv3_resnest101", {"schedule.epochs": 240, "schedule.batch_size": 8}),
    ("recipe=none", {"schedule.epochs": 50, "loss.aux_weight": 0.2}),
    ("schedule.epochs=5", {"schedule.epochs": 5, "schedule.batch_size": 16}),
    ("schedule/optimizer=adamw", {"schedule.optimizer.name": "adamw", "schedule.epochs": 180}),
    ("augment=mmseg", {"augment.color_jitter": 0.5, "augment.base_size": [2048, 512]}),
    ("sizes.crop=512", {"augment.crop_size": 512}),
    ("model.backbone.weights=null", {"model.backbone.weights": None, "schedule.epochs": 180}),
    ("evaluation=sliding", {"evaluation.name": "sliding", "evaluation.every": 1}),
    (f"{OF_MMSEG} loss=cross_entropy", {"loss.aux_weight": 0.2}),
    (f"{OF_MMSEG} schedule=default", {"schedule.epochs": 50, "schedule.iterations": None}),
]


@pytest.mark.medium
@pytest.mark.parametrize(("typed", "expected"), OVERRIDES, ids=[typed for typed, _ in OVERRIDES])
def test_overrides_win_over_the_recipe(typed, expected):
    assert_settings(compose(*HEADLINE, *typed.split()), expected)


def test_overfit_experiment_downloads_nothing():
    chosen = compose("experiment=overfit", "data=ade20k", "model=deeplabv3_resnest101")
    assert chosen["model.backbone.weights"] is None
    assert chosen["schedule.iterations"] == 150


ROWS = [f"model={model} data={data}" for model, data in PUBLISHED]


@pytest.mark.parametrize("row", [*ROWS, "experiment=fast_ade20k"])
def test_recipe_builds_everything_but_the_network(row):
    settings = compose_settings("train", ["run_name=test", *row.split()])
    schedule, classes = training.Schedule(**settings["schedule"]), {"ade20k": 150, "cityscapes": 19}
    registry.build("losses", settings["loss"], num_classes=classes[settings["data"]["name"]])
    registry.build("training.lr_schedules", schedule.lr_schedule, total=schedule.length(20_000))
    transforms.build(**settings["augment"])
    inference.build_protocol(settings)
    training.Runtime(**settings["runtime"])


# Generated scenes, narrow networks, small crops and two steps; the rest is the recipe's.
TINY = [
    *("data=shapes", "data.size=48", "data.train_scenes=4", "data.val_scenes=2", "loader.workers=0"),
    *("model.backbone.width=8", "model.head.width=8", "model.backbone.weights=null", "runtime.compile=false"),
    *("sizes.base=48", "sizes.crop=32", "sizes.bounds=[64,48]", "schedule.lr_schedule.warmup_iterations=0"),
    *("schedule.epochs=null", "schedule.iterations=2", "schedule.batch_size=2", "evaluation.every=2"),
    *("evaluation.scales=[1.0]", "schedule.patience=null", "device=cpu", "run_name=two"),
]
EXPERIMENTS = ["fast_ade20k", "camvid_cpu", "camvid_gpu", "camvid_losses", "finetune"]


@pytest.mark.slow
@pytest.mark.medium
@pytest.mark.parametrize(
    "row",
    [
        *(f"recipe={data}/{model} model={model}" for model, data in PUBLISHED),
        *(f"experiment={name}" for name in EXPERIMENTS),
    ],
)
def test_every_recipe_takes_two_steps(row, run_here, tmp_path):
    chosen = [*row.split(), *TINY, f"run_dir={tmp_path}"]
    if compose(*chosen)["model.backbone.name"] == "resnest":  # 200 random blocks overflow at the start
        chosen.append("model.backbone.last_gamma=0")
    assert run_here("train_seg", *chosen) == 0
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert result["iteration"] == 2
    assert np.isfinite(result["scores"]["mIoU"])


def test_results_page_lists_every_published_command():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    missing = [row for row in ROWS if f"`{row}`" not in page]
    assert not missing
