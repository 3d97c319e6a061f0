"""Suggestions for settings of other toolkits and misspelled ones."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from conftest import ROOT
from segkit.config.compose import compose_settings

ANSWERS = {
    "lr=0.1": "did you mean schedule.lr=0.1?",
    "learning_rate=0.1": "did you mean schedule.lr=0.1?",
    "batch_size=8": "did you mean schedule.batch_size=8?",
    "data.sede=1": "did you mean data.seed=1?",
    "epochs=10": "did you mean schedule.epochs=10?",
    "max_iters=10": "did you mean schedule.iterations=10?",
    "crop_size=[512,1024]": "did you mean sizes.crop=[512,1024]?",
    "num_workers=4": "did you mean loader.workers=4?",
    "root=/images": "did you mean data.root=/images?",
    "amp=true": "did you mean runtime.precision=bf16?",
    "pretrained=true": "did you mean model.backbone.weights=imagenet?",
    "weights=imagenet": "did you mean model.weights=imagenet or model.backbone.weights=imagenet?",
    "backbone=resnet50": "did you mean model/backbone=resnet model.backbone.variant=50?",
    "schedule/optimiser=adamw": "did you mean schedule/optimizer=adamw?",
    "schedule/policy=step": "did you mean schedule/lr_schedule=step?",
    "model/backbone=se_resnet50": "did you mean model/backbone=se_resnet model.backbone.variant=se_50?",
    "model/backbone=resnet101d": "did you mean model/backbone=resnet model.backbone.variant=101d?",
    "model/backbone=resnext50_32x4d": "did you mean model/backbone=resnet model.backbone.variant=50_32x4d?",
    "model/backbone=sknet50": "did you mean model/backbone=sknet model.backbone.variant=sknet_50?",
    "model.backbone=resnest50": "model/backbone=resnest",
    "head=fcn": "did you mean model/head=fcn?",
    "lr_schedule=cosine": "did you mean schedule/lr_schedule=cosine?",
    "optimizer=adamw": "did you mean schedule/optimizer=adamw?",
    "dataset=ade20k": "did you mean data=ade20k?",
    "model=resnest101": "did you mean model=deeplabv3_resnest101 ",
    "loss=ce": "did you mean loss=cross_entropy?",
    "schedule=cosine": "did you mean schedule/lr_schedule=cosine?",
    "data=/images": "did you mean data=folder data.root=/images?",
    "data=tests": "did you mean data=folder data.root=tests?",
    "num_classes=11": "the class table of the data set has the classes",
    "gpus=2": "torchrun --nproc-per-node N train_seg.py",
    "resume_from=runs/a": "continue a run with run_name=NAME resume=true",
    "input=photos": "it is a setting of predict_seg.py",
    "checkpoint=runs/a/best.pt": "to start from a file: model.weights=runs/a/best.pt",
    "schedule.epoch=3": "did you mean schedule.epochs=3?",
    "train.lr=1": "did you mean schedule.lr=1?",
    "--lr=0.1": "settings are written key=value without dashes: schedule.lr=0.1",
    "--num-classes=11": "the class table of the data set has the classes",
    "gpus=0,1": "torchrun --nproc-per-node N train_seg.py",
    "gpu=0": "choose a GPU with device=cuda:N",
    "model.num_classes=11": "the class table of the data set has the classes",
    "epochs:10": "did you mean schedule.epochs=10?",
    "resume=runs/a/last.pt": "run_dir=runs run_name=a resume=true",
    "model=runs/a/best.pt": "checkpoint=runs/a/best.pt or model.weights=runs/a/best.pt?",
    "model=resnest-101": "did you mean model=deeplabv3_resnest101 ",
    "loss=dice_loss": "did you mean loss=dice?",
    "backbone=resnet18": "model/backbone=NAME (",
    "--batch-size=4": "without dashes: schedule.batch_size=4",
}


@pytest.mark.parametrize("typed", ANSWERS)
def test_unknown_setting_suggests_what_to_type(typed):
    with pytest.raises(ValueError, match=re.escape(ANSWERS[typed])) as error:
        compose_settings("train", [typed])
    assert len(str(error.value).splitlines()) == 1


def test_training_setting_is_named_as_such_by_predict():
    with pytest.raises(
        ValueError, match=r"epochs=10: there is no such setting; train_seg\.py takes schedule\.epochs=10"
    ):
        compose_settings("predict", ["checkpoint=none.pt", "input=none", "epochs=10"])


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("epochs 10", r"settings are written key=value; did you mean schedule\.epochs=10\?"),
        ("epochs = 10", r"settings are written key=value; did you mean schedule\.epochs=10\?"),
        ("--epochs 10", r"without dashes: schedule\.epochs=10"),
    ],
)
def test_setting_with_spaces_suggests_what_to_type(typed, answer):
    with pytest.raises(ValueError, match=answer):
        compose_settings("train", typed.split())


@pytest.mark.medium
def test_suggestions_are_accepted():
    for answer in ANSWERS.values():
        words = answer.removeprefix("did you mean ").rstrip("?").split(" or ")[0]
        if answer.startswith("did you mean") and words.strip().count("=") == 1 and "root" not in words:
            compose_settings("train", [words.strip()] + ["schedule.epochs=null"] * ("iterations" in words))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_setting_the_chosen_loss_lacks_is_refused_in_any_order(order):
    typed = ["loss=dice", "loss.parts.dice.weight=1"]
    with pytest.raises(ValueError, match=r"loss.parts.dice.weight=1: there is no such setting"):
        compose_settings("train", [typed[place] for place in order])


@pytest.mark.medium
@pytest.mark.parametrize(
    ("words", "status"), [([], 0), (["--help"], 0), (["nope"], 2), (["train", "--help"], 0)]
)
def test_package_lists_its_commands(words, status):
    command = [sys.executable, "-m", "segkit", *words]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == status
    assert "train_seg.py" in answer.stdout + answer.stderr
