"""Every yaml composes and fits the signature it is for; wrong settings are refused by the real command."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from segkit import settings
from segkit.compose import CONF, accept_any_key, plain, swept

ROOT = CONF.parent


def options(group):
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=["run_name=test", *overrides])
    return plain("train", config)


@pytest.mark.parametrize(("data", "model"), list(itertools.product(options("data"), options("model"))))
def test_every_data_set_composes_with_every_model(data, model):
    checked = composed(f"data={data}", f"model={model}")
    assert checked["data"]["name"] == data
    assert checked["model"]["backbone"]["name"]


GROUPS = ["loss", "schedule", "schedule/optimiser", "schedule/policy", "augment", "runtime"]
GROUPS += ["model/backbone", "model/head", "model/auxiliary", "experiment", "evaluation"]


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in GROUPS for name in options(group)])
def test_every_choice_fits_the_signature_it_is_for(group, name):
    assert composed(f"{group}={name}")["run_name"]


@pytest.mark.parametrize("path", sorted(settings.SECTIONS))
def test_a_yaml_says_every_key_its_signature_has(path):
    """So ``--cfg job`` shows all there is to set."""
    section = composed("data=folder")
    for key in path.split("."):
        section = section[key]
    accepted = set(settings._accepted(path, section, {}))
    assert accepted <= set(section), f"{path} does not say {accepted - set(section)}"


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        ("schedule.lr=1", "++schedule.lr=1"),
        ("seed=1", "++seed=1"),
        ("model=deeplabv3_demo", "model=deeplabv3_demo"),
        ("model/backbone=resnest50", "model/backbone=resnest50"),
        ("+a.b=1", "+a.b=1"),
        ("~loss", "~loss"),
        ("hydra.run.dir=x", "hydra.run.dir=x"),
        ("--cfg", "--cfg"),
    ],
)
def test_keys_are_passed_so_that_our_check_sees_them(typed, passed):
    assert accept_any_key(typed) == passed


def test_a_job_is_named_after_what_is_its_own():
    typed = [
        "train_seg.py",
        "--multirun",
        "++seed=3",
        "++schedule.lr=0.1,0.2",
        "model=a/b,c",
        "++run_name=x,y",
    ]
    job = ["++seed=3", "++schedule.lr=0.2", "model=a/b", "++run_name=y"]
    assert swept(job, typed) == ["schedule.lr=0.2", "model=a_b"]


def run(*arguments, cwd, script="train_seg.py"):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


WRONG = {
    "schedule.epochs=abc": "schedule.epochs=abc: must be a number above 0 and at most 100000 or null",
    "schedule.lr=-1": "schedule.lr=-1: must be a number above 0",
    "model.backbone.output_stride=7": "model.backbone.output_stride=7: must be one of 8, 16, 32",
    "data.rooot=x": "data.rooot=x: there is no such setting; did you mean data.root? data accepts: ",
    "+bogus=1": "bogus=1: there is no such setting; the top level accepts: ",
    "model=nope": "deeplabv3_resnest101",
    "model.backbone=resnest50": "choose a file of it with model/backbone=resnest50",
    "device=gpu": "device=gpu: must be one of auto, cpu, cuda",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_setting_ends_the_command_at_once_and_leaves_nothing(wrong, tmp_path):
    before = time.perf_counter(), os.times()
    answer = run("data=camvid", wrong, cwd=tmp_path)
    used = os.times().children_user - before[1].children_user
    assert answer.returncode != 0
    assert WRONG[wrong] in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not list(tmp_path.iterdir())
    assert used < 4, f"took {used:.1f} s of a core"  # torch alone would take as long


def test_help_answers_fast_with_groups_keys_and_examples(tmp_path):
    before = os.times().children_user
    answer = run("--help", cwd=tmp_path)
    assert os.times().children_user - before < 3
    for words in ("data: ", "schedule: ", "schedule.lr=", "python train_seg.py experiment=demo"):
        assert words in answer.stdout
    assert not list(tmp_path.iterdir())


def test_a_missing_root_says_what_was_looked_for_and_what_prepares_it(tmp_path):
    answer = run("data=camvid", "model=deeplabv3_demo", cwd=tmp_path)
    assert answer.returncode == 2
    assert "data/camvid" in answer.stderr
    assert "datasets/camvid.py prepare" in answer.stderr
    assert not Path(tmp_path, "runs").exists()
