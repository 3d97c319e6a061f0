"""Plug-ins: found, checked and listed, and never run because a file names them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

import segkit
from conftest import ROOT
from segkit import testing
from segkit.config import registry
from segkit.config.compose import compose_settings

EXAMPLE = ROOT / "examples" / "plugin"
EXPERIMENT = ["--config-dir", "conf", "plugins=shiny", "experiment=shiny"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Change to a copy of the example, and forget its plug-ins afterwards."""
    shutil.copytree(EXAMPLE, tmp_path / "own", ignore=shutil.ignore_patterns("runs", "__pycache__"))
    monkeypatch.chdir(tmp_path / "own")
    monkeypatch.setattr(registry, "_plugins", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path / "own"
    for name in [name for name in sys.modules if name.split(".")[0] == "shiny"]:
        del sys.modules[name]


@pytest.mark.medium
def test_example_trains_predicts_and_must_be_named(own, capsys, run_here):
    command = [sys.executable, ROOT / "train_seg.py", *EXPERIMENT]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    patterns = (
        "sums on patches on stripes",
        "sign 0.003, halves",
        "worst_pixAcc",
        "plugins=[shiny] checkpoint=",
    )
    assert all(pattern in done.stdout for pattern in patterns)
    best = own / "runs" / "shiny" / "best.pt"
    scores = (best.parent / "scores.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in scores] == ["10", "20"]
    refusal = r"best.pt needs plug-ins, which run only if you name them: plugins=\[shiny\]"
    with pytest.raises(ValueError, match=refusal):
        segkit.load(best)
    assert "shiny" not in sys.modules
    assert run_here("predict_seg", f"checkpoint={best}", "input=photo.png") == 2
    assert "plugins=[shiny]" in capsys.readouterr().err
    assert run_here("train_seg", "run_name=shiny", "resume=true") == 2
    assert "the run to resume needs plug-ins" in capsys.readouterr().err
    cv2.imwrite("photo.png", np.tile(np.repeat([40, 220], 4).astype(np.uint8)[:, None], (32, 4, 3)))
    ids = segkit.load(best, plugins=["shiny"]).predict("photo.png")
    assert ids.shape == (32, 32)
    predict = "plugins=shiny", f"checkpoint={best}", "input=photo.png", "save=[ids]"
    assert run_here("predict_seg", *predict) == 0
    saved = cv2.imread(str(own / "runs/shiny/predict-photo/ids/photo.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(saved, ids)


@pytest.mark.medium
def test_components_of_the_example_pass_their_checks(own):
    registry.use_plugins(["shiny"])
    build = registry.build
    patches = lambda stride: build("models.backbones", {"name": "patches", "output_stride": stride})  # noqa: E731
    testing.check_backbone(patches)
    testing.check_head(lambda **late: build("models.heads", {"name": "sums"}, **late))
    for classes in (4, 300):
        brier = lambda k: build("losses", {"name": "brier"}, num_classes=k)  # noqa: E731
        testing.check_loss(brier, num_classes=classes)
        worst = lambda: build("evaluation.evaluators", {"name": "worst"})  # noqa: E731
        testing.check_evaluator(worst, num_classes=classes)
    testing.check_dataset(build("data.datasets", {"name": "stripes"}, split="train"))
    testing.check_augmentation(build("data.augmentations", {"name": "noise"}))
    factor = build("training.lr_schedules", {"name": "halves", "times": 3}, total=8)
    assert [factor(t) for t in range(8)] == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


@pytest.mark.medium
def test_help_lists_components_of_plugins(own, run_here, capsys):
    assert run_here("train_seg", "--config-dir=conf", "plugins=shiny", "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    for start, name in (("data: ", "stripes"), ("loss: ", "brier"), ("augment.extra.NAME=true: ", "noise")):
        (line,) = [line for line in lines if line.startswith(start)]
        assert name in line.removeprefix(start).split(", ")


WRONG = {
    "model.backbone.wide=3": "model.backbone.wide=3: there is no such setting; did you mean model.back",
    "augment.extra.noise.deviation=-1": "augment.extra.noise.deviation=-1: must be at least 0",
    "evaluation.evaluators.wort=true": "evaluation.evaluators.wort=true: there is no such setting; did you"
    " mean evaluation.evaluators.worst=true?",
    "model/backbone=patch": "did you mean model/backbone=patches?",
    "plugins=[shiny,shyni]": "plugins=[shyni]: there is no package of this name, installed or in ",
}


@pytest.mark.medium
@pytest.mark.parametrize("wrong", WRONG)
def test_settings_of_plugins_are_checked(own, wrong, run_here, capsys):
    words = [word for word in EXPERIMENT if not (wrong.startswith("plugins") and word.startswith("plugins"))]
    assert run_here("train_seg", *words, wrong) == 2
    output = capsys.readouterr().err
    assert WRONG[wrong] in output
    assert "Traceback" not in output
    assert not [name for name in sys.modules if name.startswith("shiny.")]


@pytest.mark.medium
def test_missing_config_dir_is_refused(run_here, capsys):
    assert run_here("train_seg", "--config-dir", "nowhere", "experiment=demo") == 2
    assert "--config-dir=nowhere: there is no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "text", "fault"),
    [
        ("losses", "def build(num_classes): ...", "'dice' is in segkit.losses.dice and mine.losses.dice"),
        ("models/heads", "x = 1", "a component needs a function build, and there is none"),
        (
            "models/heads",
            "def build(*, a: Nope = 1): ...",
            "name 'Nope' is not defined in the annotation of a",
        ),
    ],
)
def test_broken_plugin_module_is_refused_with_its_fault(own, folder, text, fault):
    (own / "mine" / folder).mkdir(parents=True)
    (own / "mine" / folder / "dice.py").write_text(text)
    choice = ["loss=dice"] if folder == "losses" else ["model.head.name=dice"]
    with pytest.raises(ValueError, match=fault):
        compose_settings("train", ["plugins=[mine]", "run_name=a", *choice])


def test_setting_before_the_star_is_refused(own):
    (own / "mine" / "losses").mkdir(parents=True)
    (own / "mine" / "losses" / "plain.py").write_text("def build(num_classes, alpha): ...")
    registry.use_plugins(["mine"])
    with pytest.raises(ValueError, match=r"plain\.py: build needs alpha; write settings after a \*"):
        registry.build("losses", {"name": "plain"}, num_classes=2)


def test_installed_package_is_found_by_its_entry_point(own, monkeypatch):
    folder = own / "site" / "shiny-1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: shiny\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[segkit.components]\nanything = shiny\n")
    monkeypatch.setattr(sys, "path", [str(own / "site"), *sys.path])
    monkeypatch.setattr(registry, "_find_installed", registry._find_installed.__wrapped__)
    assert registry.find_component("losses", "brier")[1].name == "brier.py"
    assert "brier" in registry.available("losses")
    registry.check_plugins_are_named(["shiny"], "a file")
