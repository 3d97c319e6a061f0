"""Suggestions for settings of other toolkits and misspelled ones."""

from __future__ import annotations

import re

import pytest

from conftest import run_command
from segkit.config.compose import compose_settings

NO_DASHES = "settings are written key=value, without dashes; did you mean"
ANSWERS = {
    # words of other toolkits
    "lr=0.1": "did you mean schedule.lr=0.1?",
    "batch_size=8": "did you mean schedule.batch_size=8?",
    "max_iters=10": "did you mean schedule.iterations=10?",
    "crop_size=[512,1024]": "did you mean sizes.crop=[512,1024]?",
    "amp=true": "did you mean runtime.precision=bf16?",
    "amp=false": "did you mean runtime.precision=float32?",
    "pretrained=false": "did you mean model.backbone.weights=null?",
    "pretrained=true": "did you mean model.backbone.weights=imagenet?",
    "weights=imagenet": "did you mean model.weights=imagenet or model.backbone.weights=imagenet?",
    "train.lr=1": "did you mean schedule.lr=1?",
    "schedule.epoch=3": "did you mean schedule.epochs=3?",
    "data.sede=1": "did you mean data.seed=1?",
    "input=photos": "predict_seg.py takes input=photos",
    "num_classes=11": "the class table of the data set has the classes",
    "model.num_classes=11": "the class table of the data set has the classes",
    "gpus=0,1": "torchrun --nproc-per-node N train_seg.py",
    "resume_from=runs/a": "continue a run with run_name=NAME resume=true",
    "checkpoint=runs/a/best.pt": "to start from a file: model.weights=runs/a/best.pt",
    # groups
    "backbone=resnet50": "did you mean model/backbone=resnet model.backbone.variant=50?",
    "model/backbone=se_resnet50": "did you mean model/backbone=se_resnet model.backbone.variant=se_50?",
    "model/backbone=resnext50_32x4d": "did you mean model/backbone=resnet model.backbone.variant=50_32x4d?",
    "model.backbone=resnest50": "choose it with model/backbone=resnest",
    "lr_schedule=cosine": "did you mean schedule/lr_schedule=cosine?",
    "schedule/policy=step": "did you mean schedule/lr_schedule=step?",
    "schedule=cosine": "did you mean schedule/lr_schedule=cosine?",
    "dataset=ade20k": "did you mean data=ade20k?",
    "head=segformer": "did you mean model/head=NAME (",
    "model=resnest-101": "did you mean model=deeplabv3_resnest101 ",
    "loss=ce": "did you mean loss=cross_entropy?",
    "loss=dice_loss": "did you mean loss=dice?",
    "data=/images": "did you mean data=folder data.root=/images?",
    "model=runs/a/best.pt": "checkpoint=runs/a/best.pt or model.weights=runs/a/best.pt?",
    # words that are no settings
    "resume=runs/a/last.pt": "must be true, false or auto; name the run: run_dir=DIR run_name=NAME",
    "--lr=0.1": f"--lr=0.1: {NO_DASHES} schedule.lr=0.1?",
    "--lr": f"{NO_DASHES} schedule.lr=VALUE?",
    "--batch-size=4": f"{NO_DASHES} schedule.batch_size=4?",
    "--num-classes=11": "the class table of the data set has the classes",
    "--epochs 10": f"{NO_DASHES} schedule.epochs=10?",
    "epochs = 10": f"{NO_DASHES} schedule.epochs=10?",
    "epochs:10": f"{NO_DASHES} schedule.epochs=10?",
    "/": f"{NO_DASHES} data=folder data.root=/?",
    "demo": f"demo: {NO_DASHES} experiment=demo?",
    "runs/demo/best.pt": f"{NO_DASHES} checkpoint=runs/demo/best.pt?",
}


@pytest.mark.parametrize("typed", ANSWERS)
def test_unknown_setting_suggests_what_to_type(typed):
    with pytest.raises(ValueError, match=re.escape(ANSWERS[typed])) as error:
        compose_settings("train", typed.split())
    assert len(str(error.value).splitlines()) == 1


def test_training_setting_is_named_as_such_by_predict():
    message = r"epochs=10: there is no such setting; train_seg\.py takes schedule\.epochs=10"
    with pytest.raises(ValueError, match=message):
        compose_settings("predict", ["checkpoint=none.pt", "input=none", "epochs=10"])


@pytest.mark.medium
def test_suggestions_are_accepted():
    suggested = [re.search(r"did you mean ([^? ]+=[^? ]+)\?$", answer) for answer in ANSWERS.values()]
    words = {found[1] for found in suggested if found and "VALUE" not in found[1]}
    assert len(words) > 10
    for word in words - {"checkpoint=runs/demo/best.pt"}:  # of other commands
        compose_settings("train", [word] + ["schedule.epochs=null"] * ("iterations" in word))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_setting_the_chosen_loss_lacks_is_refused_in_any_order(order):
    typed = ["loss=dice", "loss.parts.dice.weight=1"]
    with pytest.raises(ValueError, match=r"loss.parts.dice.weight=1: there is no such setting"):
        compose_settings("train", [typed[place] for place in order])


@pytest.mark.medium
@pytest.mark.parametrize(("words", "status"), [([], 0), (["nope"], 2), (["train", "--help"], 0)])
def test_package_lists_its_commands(words, status):
    answer = run_command("-m", "segkit", *words, status=status)
    assert "train_seg.py" in answer.stdout + answer.stderr
