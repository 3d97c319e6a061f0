"""Every yaml composes and fits the signature it is for; wrong settings are refused by the real command."""

import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from segkit import config
from segkit.config import schema
from segkit.config.compose import CONF, VERSION_BASE, accept_any_key, command, resolve_settings, sweep_suffix
from segkit.config.compose import composed as schema_composed

ROOT = CONF.parent


def options(group):
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def composed(*overrides):
    with initialize_config_dir(str(CONF), **VERSION_BASE):
        config = compose("train", overrides=["run_name=test", *overrides])
    return resolve_settings("train", config)


@pytest.mark.parametrize(("data", "model"), list(itertools.product(options("data"), options("model"))))
def test_every_data_set_composes_with_every_model(data, model):
    checked = composed(f"data={data}", f"model={model}")
    assert checked["data"]["name"] == data
    assert checked["model"]["backbone"]["name"]


GROUPS = ["loss", "schedule", "schedule/optimizer", "schedule/lr_schedule", "augment", "runtime"]
GROUPS += ["model/backbone", "model/head", "model/auxiliary", "experiment", "evaluation"]
NEEDS = {"timm": ["++model.backbone.variant=convnext_tiny"]}  # what a choice does not decide


@pytest.mark.medium
@pytest.mark.parametrize(("group", "name"), [(group, name) for group in GROUPS for name in options(group)])
def test_every_choice_fits_the_signature_it_is_for(group, name):
    assert composed(f"{group}={name}", *NEEDS.get(name, ()))["run_name"]


@pytest.mark.parametrize("path", sorted(config.SECTIONS))
def test_a_yaml_says_every_key_its_signature_has(path):
    """So ``--cfg job`` shows all there is to set."""
    section = composed("data=folder")
    for key in path.split("."):
        section = section[key]
    accepted = set(schema._keys(path, section, {}).accepted)
    assert accepted <= set(section), f"{path} does not say {accepted - set(section)}"


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        ("schedule.lr=1", "++schedule.lr=1"),
        ("seed=1", "++seed=1"),
        ("model=deeplabv3_demo", "model=deeplabv3_demo"),
        ("model/backbone=resnest", "model/backbone=resnest"),
        ("+a.b=1", "+a.b=1"),
        ("~loss", "~loss"),
        ("hydra.run.dir=x", "hydra.run.dir=x"),
        ("--cfg", "--cfg"),
        ("run_name=2026_11", "++run_name='2026_11'"),
        ("seed=2026_11", "++seed=2026_11"),
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
    assert sweep_suffix(job, typed) == ["schedule.lr=0.2", "model=a_b"]


def run(*arguments, cwd, script="train_seg.py"):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


WRONG = {
    "schedule.epochs=abc": "schedule.epochs=abc: must be a number above 0 and at most 100000 or null",
    "schedule.lr=-1": "schedule.lr=-1: must be a number above 0",
    "model.backbone.output_stride=7": "model.backbone.output_stride=7: must be one of 8, 16, 32",
    "data.rooot=x": "data.rooot=x: there is no such setting; did you mean data.root=x?",
    "+bogus=1": "bogus=1: there is no such setting; the top level accepts: ",
    "model=nope": "model=nope: there is no such choice; there are: deeplabv3_demo, deeplabv3_resnest101",
    "model.backbone=resnest": "choose a file of it with model/backbone=resnest",
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


BROKEN = {  # what Hydra or OmegaConf trip over, and what we say
    "augment=${oc.env:NOPE,null}": "the settings cannot be composed",
    "+evaluation=[1,[2]]": "the settings cannot be composed",
    f"hydra/launcher={'x' * 300}": "Could not find 'hydra/launcher/xxx",
    "~sizes": "sizes is missing; give it with sizes.base=... sizes.crop=... sizes.bounds=...",
    "seed=${nope}": "seed: Interpolation key 'nope' not found",
    "hydra/launcher=nope": "Could not find 'hydra/launcher/nope'",
    "~nope": "Could not delete",
    "model=typo": "model=typo: there is no such choice; there are: deeplabv3_demo, ",
    "model=deeplabv3_resnest5": "did you mean model=deeplabv3_resnest50",
    "model/backbone=resnat": "did you mean model/backbone=resnet",
    "loss=typo": "loss=typo: there is no such choice; there are: ce_dice, ",
    "experiment=dmeo": "did you mean experiment=demo?",
    "--lr": "--lr: settings are written key=value without dashes: schedule.lr=VALUE",
    "--schedule.lr=0.1": "settings are written key=value without dashes: schedule.lr=0.1",
    "-x": "settings are written key=value without dashes: x=VALUE",
    "demo": "demo: settings are written key=value; did you mean experiment=demo?",
    "runs/demo/best.pt": "did you mean checkpoint=runs/demo/best.pt?",
    "seed": "seed: settings are written key=value; did you mean seed=VALUE",
    "schedule.optimizer=[1]": "schedule.optimizer=[1]: this is a group; choose a file of it with",
    "checkpoint=[1]": "checkpoint=[1]: this is a group; say checkpoint.KEY=... (every, ",
    "evaluation.evaluators=[boundary]": "give each by its name, evaluation.evaluators.NAME=true; there are: ",
    "evaluation.evaluators=boundary": "give each by its name, evaluation.evaluators.NAME=true; there are: ",
    # what is taken out
    "~seed": "seed is missing; give it with seed=...",
    "~loader": "loader is missing; give it with loader.workers=...",
    "~schedule.lr": "schedule.lr is missing; give it with schedule.lr=... (a number above 0",
    "~model.backbone": "model.backbone is missing; choose it with model/backbone=NAME",
    "~model.backbone.name": "model.backbone.name=None: no None in segkit/models/backbones",
    "~model": "model is missing; choose it with model=NAME (deeplabv3_demo, ",
    "~data": "data is missing; choose it with data=NAME",
    "~augment": "augment is missing; choose it with augment=NAME",
    "~checkpoint": "checkpoint is missing; give it with checkpoint.every=...",
    "~evaluation.every": "evaluation.every is missing",
    "~run_dir": "run_dir is missing; give it with run_dir=... (text)",
    "model=null": "model",
    "schedule=null": "schedule",
    # what is no number, or too much of one
    "schedule.lr=inf": "schedule.lr=inf: must be a number above 0",
    "schedule.lr=nan": "schedule.lr=nan: must be a number above 0",
    "schedule.epochs=-inf": "schedule.epochs=-inf: must be a number above 0",
    "schedule.clip_gradient=inf": "schedule.clip_gradient=inf: must be",
    "augment.rotation=inf": "augment.rotation=inf: must be a number at least 0",
    "augment.scales=[nan,nan]": "augment.scales=[nan, nan]: must be",
    "evaluation.scales=[inf]": "evaluation.scales=[inf]: must be",
    "evaluation.memory=inf": "evaluation.memory=inf: must be",
    "model.mean=[nan,0,0]": "model.mean=[nan, 0, 0]: must be",
    "augment.crop_size=30000": "augment.crop_size=30000: must be an integer at least 1 and at most 8192",
    "sizes.crop=30000": "sizes.crop=30000: must be an integer at least 1 and at most 16384",
    "seed=1e400": "seed=inf: must be an integer",
    f"seed={10**30}": "must be an integer at least 0",
    f"schedule.iterations={10**30}": "must be an integer at least 1",
    "loader.workers=100000": "loader.workers=100000: must be an integer at least 0 and at most 256",
    "evaluation.every=1e-300": "evaluation.every=1e-300: must be a number at least 0.0001",
    "checkpoint.minutes=inf": "checkpoint.minutes=inf: must be a number above 0",
    "schedule.ema=1": "schedule.ema=1: must be a number at least 0 and below 1 or null",
    "evaluation.memory=1e300": "evaluation.memory=1e+300: must be",
    "evaluation.scales=[1e300]": "evaluation.scales=[1e+300]: must be",
    "evaluation.base_size=1000000000": "evaluation.base_size=1000000000: must be",
    "checkpoint.keep=0": "checkpoint.keep=0: must be an integer at least 1",
    "run_name=[1,2]": "run_name=[1, 2]: must be text",
    "device=cuda:x": "device=cuda:x: must be one of auto, cpu, cuda, cuda:N, mps",
}


@pytest.mark.parametrize("wrong", BROKEN)
def test_whatever_is_typed_ends_in_one_message_and_status_2(wrong, tmp_path, monkeypatch, capsys, run_here):
    monkeypatch.chdir(tmp_path)
    assert run_here("train_seg", wrong, "run_dir=x" if wrong != "~run_dir" else "seed=1") == 2
    said = capsys.readouterr().err
    assert BROKEN[wrong] in said
    assert said.startswith("error: ")
    assert said.count("error: ") == 1
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["augment=${oc.env:NOPE,null}", "model=typo", "--lr", "~seed"])
def test_the_command_itself_says_it_so(wrong, tmp_path):
    answer = run(wrong, cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: ")
    assert BROKEN[wrong] in answer.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "key", "expected"),
    [
        ("run_name=1", "run_name", "1"),
        ("run_name=2026_11_21", "run_name", "2026_11_21"),
        ("run_name=true", "run_name", "true"),
        ("run_name=nan", "run_name", "nan"),
        ("run_name=1e3", "run_name", "1e3"),
        ("+run_name=7", "run_name", "7"),
        ("data.train_split=0.8", "data.train_split", "0.8"),
        ("data.root=2026", "data.root", "2026"),
        ("seed=3", "seed", 3),
        ("device=cuda:1", "device", "cuda:1"),
        ("device=mps", "device", "mps"),
        ("model.backbone.variant=26", "model.backbone.variant", "26"),  # one of several words
    ],
)
def test_numbers_are_text_where_text_is_meant(typed, key, expected):
    value = schema_composed(
        "train", ["data=folder", "run_name=a", typed] if "run_name" not in typed else [typed]
    )
    for part in key.split("."):
        value = value[part]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("run_name=1", "1"),
        ("run_name=2026_11", "2026_11"),
        ("+run_name=7", "7"),
        ("run_name=nan", "nan"),
        ("run_name=true", "true"),
        ("run_name=", "deeplabv3_resnest50-camvid"),
        ("run_name=null", "deeplabv3_resnest50-camvid"),
        ("experiment=demo", "demo"),
    ],
)
def test_a_run_is_called_as_it_was_typed(typed, expected, monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "argv", ["train_seg.py", "data=camvid", typed])
    command("train")(seen.append)()
    assert [settings["run_name"] for settings in seen] == [expected]


def imports_torch(answer):
    """Whether a run of ``python -v`` tells of torch."""
    return "import 'torch'" in answer.stderr


def test_what_is_refused_is_refused_before_torch_is_imported(tmp_path):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "iteration_0000001.pt").touch()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONVERBOSE": "1"}
    for arguments, words in (
        (["data=camvid", "run_name=b"], "datasets/camvid.py prepare"),
        (["data=folder", "data.root=nowhere", "run_name=b"], "nowhere"),
        (["run_name=a"], "has a run already"),
        (["run_name=b", "resume=true"], "runs/b: has no checkpoint to resume from"),
        (["schedule.lr=-1"], "must be a number above 0"),
        ([], ""),
    ):
        answer = subprocess.run(
            [sys.executable, str(ROOT / "train_seg.py"), *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert words in answer.stderr
        assert answer.returncode == (2 if arguments else 0)
        assert "import 'hydra'" in answer.stderr
        assert not imports_torch(answer), arguments
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["a"]


def test_without_arguments_a_command_prints_its_help(run_here, capsys):
    assert run_here("train_seg") == 0
    assert "Keys people set most" in capsys.readouterr().out


def test_help_that_is_read_in_part_ends_without_a_word():
    command = f"{sys.executable} train_seg.py --help | head -1"
    answer = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert answer.stdout == "Train a segmentation network.\n"
    assert answer.stderr == ""


IDLE = [  # what a recipe or an experiment says of another component than the one that is chosen
    ("experiment=demo", "schedule/lr_schedule=one_cycle", "schedule.lr_schedule.warmup_iterations=30"),
    ("experiment=overfit", "model=pspnet_resnest101", "model.head.aspp_dropout=0.0"),
    ("experiment=overfit", "model/head=fcn", "model.head.aspp_dropout=0.0"),
]


@pytest.mark.parametrize(("base", "choice", "idle"), IDLE)
def test_a_choice_leaves_out_what_was_said_for_another_and_tells_it(base, choice, idle, caplog):
    schema_composed("train", [base, choice, "run_name=a"])
    component = choice.split("=")[1].removesuffix("_resnest101")
    assert f"{idle} is left out: {component} has no such setting" in caplog.text
    with pytest.raises(ValueError, match=f"{re.escape(idle)}: there is no such setting"):
        schema_composed("train", [base, choice, idle, "run_name=a"])


def test_what_a_choice_has_itself_stays(caplog):
    checked = schema_composed("train", ["experiment=demo", "schedule/lr_schedule=cosine", "run_name=a"])
    assert checked["schedule"]["lr_schedule"]["warmup_iterations"] == 30
    checked = schema_composed("train", ["experiment=demo", "evaluation=sliding", "run_name=a"])
    assert checked["evaluation"]["every"] == 100
    assert not caplog.text


@pytest.mark.parametrize("name", ["train", "test", "predict"])
def test_help_lists_the_groups_of_its_command_and_no_inner_ones(name, run_here, capsys):
    assert run_here(f"{'train' if name == 'train' else name}_seg", "--help") == 0
    said = capsys.readouterr().out
    listed = {line.split(":")[0] for line in said.splitlines() if re.match(r"[\w/]+: \w", line)}
    groups = {"data", "model", "model/backbone", "model/head", "model/auxiliary", "evaluation"}
    if name == "train":
        groups |= {
            "loss",
            "augment",
            "schedule",
            "schedule/optimizer",
            "schedule/lr_schedule",
            "runtime",
            "experiment",
        }
    assert listed == groups


def bases(file, settings):
    """What the files say that a file includes by name alone."""
    base = {}
    for entry in settings.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_" and "@_global_" not in entry:
            path = entry.split("@")[0]
            folder = CONF if path.startswith("/") else file.parent
            text = (folder / f"{path.lstrip('/')}.yaml").read_text(encoding="utf-8")
            base |= yaml.safe_load(text) or {}
    return base


def test_no_file_repeats_what_the_files_beneath_it_say():
    repeated = []
    for file in sorted(CONF.rglob("*.yaml")):
        own = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        base = bases(file, own)
        own.pop("defaults", None)
        repeated += [f"{file.stem}: {key}" for key in own if key in base and base[key] == own[key]]
    assert not repeated


def test_a_flag_may_stand_between_settings(tmp_path):
    done = run("experiment=ablation", "--multirun", "schedule.lr=-1", "seed=0", cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == "error: schedule.lr=-1: must be a number above 0 and at most 1000"
