"""Composition of settings: every yaml fits its signature, and the commands refuse wrong settings at once."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

import segkit
from conftest import ROOT, run_command
from segkit.config import schema
from segkit.config.cli import command, sweep_suffix
from segkit.config.compose import CONF, compose_settings
from segkit.config.dotted import value_of

GROUPS = ["loss", "schedule", "schedule/optimizer", "schedule/lr_schedule", "augment", "runtime"]
GROUPS += ["model/auxiliary", "experiment", "evaluation", "data"]  # others of models: test_model_settings.py


def options(group):
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.mark.medium
@pytest.mark.parametrize(("group", "name"), [(group, name) for group in GROUPS for name in options(group)])
def test_every_choice_fits_its_signature(group, name):
    assert compose_settings("train", [f"{group}={name}"])["run_name"]


def test_yaml_files_list_every_key_of_the_signature():
    settings = compose_settings("train", ["data=folder"])
    for path in schema.SECTIONS:
        section = value_of(settings, path)
        assert schema.read_section(path, section).accepted.keys() <= section.keys(), path


def base_settings(file, settings):
    """Return the content of the files that a file includes by name alone."""
    included = {}
    for entry in settings.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_" and not entry.startswith("/"):
            text = (file.parent / f"{entry.split('@')[0]}.yaml").read_text(encoding="utf-8")
            included |= yaml.safe_load(text) or {}
    return included


def test_no_yaml_file_repeats_values_of_the_files_it_includes():
    repeated = []
    for file in sorted(CONF.rglob("*.yaml")):
        own = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        included = base_settings(file, own)
        own.pop("defaults", None)
        repeated += [f"{file.stem}: {key}" for key in own if key in included and included[key] == own[key]]
    assert not repeated


CALL = """
import contextlib, io, json, sys
import train_seg

for words in json.loads(sys.argv[1]):
    status, output = 0, io.StringIO()
    sys.argv = ["train_seg.py", *words]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            train_seg.main()
        except SystemExit as end:
            status = end.code or 0
    print(json.dumps([status, output.getvalue()]))
print(json.dumps([name for name in ("hydra", "torch") if name in sys.modules]))
"""


@pytest.mark.medium
def test_wrong_setting_ends_the_command_before_torch_is_imported(tmp_path):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "iteration_0000001.pt").touch()
    cases = [
        (["data=camvid", "run_name=b"], "datasets/camvid.py prepare"),
        (["data=folder", "data.root=nowhere", "run_name=b"], "nowhere"),
        (["run_name=a"], "has a run already"),
        (["run_name=b", "resume=true"], "runs/b: has no checkpoint to resume from"),
        (["schedule.lr=-1", "seed=x"], "schedule.lr=-1: must be greater than 0"),
        ([], "Keys people set most"),
    ]
    command = [sys.executable, "-c", CALL, json.dumps([words for words, _ in cases])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    *answers, imported = map(json.loads, done.stdout.splitlines())
    for (words, message), (status, output) in zip(cases, answers, strict=True):
        assert status == (2 if words else 0)
        assert message in output
        assert "Traceback" not in output
    assert imported == ["hydra"]
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["a"]


WRONG = {  # each on the command line, and a part of its message
    # faults that Hydra or OmegaConf find
    "augment=${oc.env:NOPE,null}": "${oc.env:NOPE,null}",
    "+evaluation=[1,[2]]": "the settings cannot be composed",
    f"hydra/launcher={'x' * 300}": "Could not find 'hydra/launcher/xxx",
    "seed=${nope}": "seed: Interpolation key 'nope' not found",
    "~nope": "Could not delete",
    # faults that segkit finds
    "--nope": "--nope: settings are written key=value, without dashes; see --help",
    "model=nope": "model=nope: there is no such choice; there are: deeplabv3_demo, deeplabv3_resnest101",
    "experiment=dmeo": "did you mean experiment=demo?",
    "checkpoint=[1]": "checkpoint=[1]: this is a section; set checkpoint.KEY=... (every, ",
    "evaluation.evaluators=[boundary]": "set each by its name, evaluation.evaluators.NAME=true; there are: ",
    "model=null": "model",
    "+bogus=1": "bogus=1: there is no such setting; the top level accepts: ",
    "model.mean=[nan,0,0]": "model.mean=[nan,0,0]: must be a finite number",
    "device=cuda:x": "device=cuda:x: must be 'auto', 'cpu', 'cuda' or 'mps'",
}


@pytest.mark.medium
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_word_ends_in_one_message_and_status_2(wrong, tmp_path, monkeypatch, capsys, run_here):
    monkeypatch.chdir(tmp_path)
    assert run_here("train_seg", wrong, "run_dir=x") == 2
    output = capsys.readouterr().err
    assert WRONG[wrong] in output
    assert output.startswith("error: ")
    assert output.count("error: ") == 1
    assert "Traceback" not in output
    assert not list(tmp_path.iterdir())


@pytest.mark.medium
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("run_name=2026_11", "2026_11"),
        ("run_name=", "deeplabv3_resnest50-camvid"),
        ("run_name=null", "deeplabv3_resnest50-camvid"),
        ("experiment=demo", "demo"),
    ],
)
def test_run_gets_its_typed_or_default_name(typed, expected, monkeypatch):
    received = []
    monkeypatch.setattr(sys, "argv", ["train_seg.py", "data=camvid", typed])
    command("train")(received.append)()
    assert [settings["run_name"] for settings in received] == [expected]


def test_jobs_of_a_sweep_are_named_by_their_own_overrides():
    typed = ["train_seg.py", "--multirun", "++seed=3", "++schedule.lr=0.1,0.2", "model=a/b,c"]
    typed += ["++run_name=x,y"]
    job = ["++seed=3", "++schedule.lr=0.2", "model=a/b", "++run_name=y"]
    assert sweep_suffix(job, typed) == ["schedule.lr=0.2", "model=a_b"]


@pytest.mark.medium
def test_flags_are_accepted_between_settings(tmp_path):
    words = ["experiment=ablation", "--multirun", "schedule.lr=-1", "seed=0", f"run_dir={tmp_path}"]
    done = run_command("train_seg.py", *words, status=2)
    assert done.stderr.splitlines()[-1] == "error: schedule.lr=-1: must be greater than 0"


@pytest.mark.medium
def test_help_ends_silently_when_its_pipe_is_closed():
    command = f"{sys.executable} train_seg.py --help | head -1"
    answer = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert answer.stdout == "Train a segmentation network.\n"
    assert answer.stderr == ""


@pytest.mark.medium
@pytest.mark.parametrize("name", ["train", "test", "predict"])
def test_help_lists_the_groups_and_examples_of_its_command(name, run_here, capsys):
    assert run_here(f"{name}_seg", "--help") == 0
    output = capsys.readouterr().out
    listed = {line.split(":")[0] for line in output.splitlines() if re.match(r"[\w/]+: \w", line)}
    groups = {"data", "model", "model/backbone", "model/head", "model/auxiliary", "evaluation"}
    if name == "train":
        groups |= {"loss", "augment", "schedule", "schedule/optimizer", "schedule/lr_schedule", "runtime"}
        groups |= {"experiment"}
    assert listed == groups
    assert f"python {name}_seg.py " in output


@pytest.mark.medium
def test_version_is_that_of_segkit(run_here, capsys):
    assert run_here("train_seg", "--version") == 0
    assert capsys.readouterr().out == f"segkit {segkit.__version__}\n"


@pytest.mark.medium
def test_cfg_job_prints_the_settings_of_the_run(run_here, capsys):
    words = ["model=deeplabv3_resnest101", "data=ade20k", "schedule/optimizer=adamw", "seed=7"]
    assert run_here("train_seg", *words, "--cfg", "job") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    settings = compose_settings("train", words)
    assert "recipe" not in printed
    assert printed["seed"] == 7
    plain = json.loads(json.dumps(settings))  # without tuples
    for key in ("schedule.epochs", "schedule.optimizer", "schedule.lr_schedule", "augment.crop_size"):
        assert value_of(printed, key) == value_of(plain, key)
    assert printed["run_name"] == settings["run_name"]


@pytest.mark.parametrize(
    ("base", "choice", "dropped"),
    [
        ("experiment=demo", "schedule/lr_schedule=one_cycle", "schedule.lr_schedule.warmup_iterations=30"),
        ("experiment=overfit", "model=pspnet_resnest101", "model.head.aspp_dropout=0.0"),
        ("experiment=overfit", "model/head=fcn", "model.head.aspp_dropout=0.0"),
    ],
)
def test_keys_of_a_replaced_component_are_dropped_with_a_warning(base, choice, dropped, caplog):
    compose_settings("train", [base, choice, "run_name=a"])
    component = choice.split("=")[1].removesuffix("_resnest101")
    assert f"{dropped} is left out: {component} has no such setting" in caplog.text
    with pytest.raises(ValueError, match=f"{re.escape(dropped)}: there is no such setting"):
        compose_settings("train", [base, choice, dropped, "run_name=a"])


def test_keys_that_a_chosen_component_has_stay(caplog):
    settings = compose_settings("train", ["experiment=demo", "schedule/lr_schedule=cosine", "run_name=a"])
    assert settings["schedule"]["lr_schedule"]["warmup_iterations"] == 30
    settings = compose_settings("train", ["experiment=demo", "evaluation=sliding", "run_name=a"])
    assert settings["evaluation"]["every"] == 100
    assert not caplog.text
