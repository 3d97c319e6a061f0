"""``test_seg.py``: scores equal to those of training, result files, folders and errors."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch

from conftest import run_command, write_folder
from segkit import checkpoint
from segkit.data.label_map import load_builtin_label_map

pytestmark = pytest.mark.medium
PUBLISHED = ["model=deeplabv3_demo", "model.backbone.width=8", "model.head.width=16"]


@pytest.fixture(scope="module")
def scored_run(tiny_run, tmp_path_factory):
    """Folder and output of a test of the last checkpoint, with masks."""
    folder = tmp_path_factory.mktemp("tested")
    words = f"checkpoint={tiny_run}/last.pt output={folder} save=[ids,overlays] loader.workers=0"
    return folder, run_command("test_seg.py", *words.split()).stdout


def test_scores_equal_those_of_the_last_validation(scored_run, tiny_run):
    folder, _ = scored_run
    result = json.loads((folder / "result.json").read_text())
    in_training = checkpoint.read_checkpoint(tiny_run / "best.pt")
    assert in_training["iteration"] == 4
    assert result["scores"] == in_training["scores"]
    assert result["protocol"]["name"] == "whole"
    assert result["protocol"]["scales"] == [1.0]
    assert result["images"] == 6


def test_best_checkpoint_holds_the_ema_weights(tiny_run):
    last, best = (checkpoint.read_checkpoint(tiny_run / name) for name in ("last.pt", "best.pt"))
    different = [name for name in last["model"] if not last["model"][name].equal(last["average"][name])]
    assert different
    assert all(value.equal(last["average"][name]) for name, value in best["model"].items())


def test_result_files_agree_with_each_other(scored_run):
    folder, output = scored_run
    result = json.loads((folder / "result.json").read_text())
    with (folder / "confusion.csv").open() as file:
        counts = np.array([[int(n) for n in row[1:]] for row in list(csv.reader(file))[1:]])
    hits, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
    assert result["scores"]["pixAcc"] == pytest.approx(hits.sum() / counts.sum())
    assert result["scores"]["mIoU"] == pytest.approx(np.mean(hits / np.maximum(union, 1)))
    with (folder / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(result["class_iou"])
    assert [int(row["labeled pixels"]) for row in rows] == counts.sum(1).tolist()
    assert f"mIoU {100 * result['scores']['mIoU']:.2f}" in output
    assert "whole (scales 1" in output


def test_result_contains_weights_versions_and_settings(scored_run):
    result = json.loads((scored_run[0] / "result.json").read_text())
    assert len(result["weights_sha256"]) == 64
    assert {"segkit", "torch", "python"} <= set(result["versions"])
    assert result["settings"]["data"]["size"] == 32  # of the checkpoint
    assert result["settings"]["model"]["head"]["width"] == 16


@pytest.fixture
def photographs(tmp_path):
    """Four images with masks of the classes of shapes, for ``data=folder``."""
    names = load_builtin_label_map("shapes").names
    return write_folder(tmp_path / "photographs", [f"val/{k}" for k in range(4)], names, (40, 48))


def scores_in(folder):
    return json.loads((folder / "result.json").read_text())["scores"]


def test_resumed_test_gives_the_same_scores(tiny_run, photographs, tmp_path, run_here, capsys):
    arguments = f"checkpoint={tiny_run}/best.pt data=folder data.root={photographs} loader.workers=0".split()
    assert run_here("test_seg", *arguments, f"output={tmp_path / 'unbroken'}") == 0
    mask = (photographs / "masks/val/2.png").read_bytes()
    (photographs / "masks/val/2.png").write_bytes(mask[:60])
    assert run_here("test_seg", *arguments, f"output={tmp_path / 'broken'}") == 2
    assert "masks/val/2.png: is damaged, cut short or not an image" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "broken").iterdir()] == ["partial"]
    (photographs / "masks/val/2.png").write_bytes(mask)
    assert run_here("test_seg", *arguments, f"output={tmp_path / 'broken'}", "resume=true") == 0
    assert scores_in(tmp_path / "broken") == scores_in(tmp_path / "unbroken")
    assert not (tmp_path / "broken/partial").exists()


def test_protocol_sizes_come_from_the_checkpoint(tiny_run, tmp_path, run_here, capsys):
    copy = shutil.copy(tiny_run / "best.pt", tmp_path)
    words = f"checkpoint={copy} evaluation=encoding report=true loader.workers=0"
    assert run_here("test_seg", *words.split()) == 0
    result = json.loads((tmp_path / "test-encoding/result.json").read_text())
    assert result["protocol"]["window"] == [128, 128]  # sizes.crop of data=shapes
    page = (tmp_path / "test-encoding/report.html").read_text()
    assert page.count("<figure>") == 6
    assert "encoding (scales 0.5 0.75" in page
    assert "encoding (scales 0.5 0.75" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"Give checkpoint=runs/NAME/best.pt; or, for published weights"),
        (["model=deeplabv3_demo", "data=shapes"], "for published weights, all of"),
        (["checkpoint=nowhere.pt"], "checkpoint=nowhere.pt: there is no such file"),
        (["checkpoint={run}/best.pt", "model=deeplabv3_demo"], "with its weights; leave out model="),
        (["checkpoint={run}/best.pt", "schedule.lr=1"], r"schedule.lr=1: there is no such setting"),
        (
            ["checkpoint={run}/best.pt", "runtime.precision=bf16"],
            r"runtime.precision=bf16: there is no such setting; did you mean evaluation.precision=bf16\?",
        ),
        (["checkpoint={run}/best.pt", "save=[id]"], r"save=\[id\]: must be 'ids', 'colors'"),
        (["checkpoint={run}/best.pt", "model.head.width=32"], r"do not fit the network of model\.\*"),
        (
            ["checkpoint={run}/best.pt", "submission=true"],
            "the classes are those of shapes; only ade20k, cityscapes",
        ),
    ],
)
def test_invalid_test_settings_are_rejected(tiny_run, tmp_path, run_here, capsys, arguments, message):
    arguments = [word.format(run=tiny_run) for word in arguments]
    assert run_here("test_seg", *arguments, f"output={tmp_path / 'results'}") == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content["model"]["backbone.bn1.weight"].fill_(torch.nan), "contain NaN or infinity"),
        (lambda content: content.pop("format"), "not a checkpoint of segkit; weights of other projects"),
    ],
)
def test_broken_checkpoints_leave_no_result(tiny_run, tmp_path, run_here, capsys, damage, message):
    content = torch.load(tiny_run / "best.pt", weights_only=True)
    damage(content)
    torch.save(content, tmp_path / "broken.pt")
    assert run_here("test_seg", f"checkpoint={tmp_path / 'broken.pt'}", "loader.workers=0") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("result.json"))


def test_published_weights_are_scored_on_several_roots(
    tiny_run, photographs, tmp_path, run_here, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    other = shutil.copytree(photographs, tmp_path / "other/photographs")
    words = f"data=folder data.root=[{photographs},{other}] loader.workers=0 output='~/scored'"
    assert run_here("test_seg", *PUBLISHED, f"model.weights={tiny_run}/best.pt", *words.split()) == 0
    assert json.loads((tmp_path / "scored/result.json").read_text())["images"] == 8


def test_other_data_and_protocol_get_a_separate_folder(tiny_run, photographs, tmp_path, run_here, capsys):
    copy = f"checkpoint={shutil.copy(tiny_run / 'best.pt', tmp_path)}"
    shutil.copytree(photographs, tmp_path / "more/photographs")
    for root in (photographs, tmp_path / "more/photographs", photographs):
        words = copy, "data=folder", f"data.root={root}", "loader.workers=0"
        assert run_here("test_seg", *words, "evaluation.scales=[1,0.5]") == 0
    names = sorted(folder.name for folder in tmp_path.glob("test-*"))
    assert names == [f"test-whole-scales=1.0-0.5-folder-val{suffix}" for suffix in ("", "-2")]
    result = json.loads((tmp_path / names[0] / "result.json").read_text())
    assert result["protocol"]["name"] == "whole, changed: scales"
    captured = capsys.readouterr().out
    assert "folder, split val: 4 images" in captured
    assert "whole, changed: scales (scales 1 0.5" in captured


def test_other_weights_get_a_separate_folder(tiny_run, tmp_path, run_here):
    hashes = {}
    for name in ("best.pt", "last.pt"):
        shutil.copy(tiny_run / name, tmp_path / name)
        assert run_here("test_seg", f"checkpoint={tmp_path / name}", "loader.workers=0") == 0
    content = torch.load(tmp_path / "best.pt", weights_only=True)
    content["model"]["backbone.bn1.weight"] *= 0.5
    torch.save(content, tmp_path / "best.pt")  # the training went on
    assert run_here("test_seg", f"checkpoint={tmp_path}/best.pt", "loader.workers=0") == 0
    for folder in tmp_path.glob("test-*"):
        hashes[folder.name] = json.loads((folder / "result.json").read_text())["weights_sha256"]
    assert hashes.keys() == {"test-whole", "test-whole-2", "test-last-whole"}
    assert hashes["test-whole"] != hashes["test-whole-2"]


def test_other_result_is_not_overwritten(tiny_run, tmp_path, run_here, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = torch.load(tiny_run / "best.pt", weights_only=True)
    content["model"]["backbone.bn1.weight"] *= 0.5
    torch.save(content, "other.pt")
    result = tmp_path / "out/result.json"
    same = [f"checkpoint={tiny_run / 'best.pt'}", "output=out", "loader.workers=0"]
    other = "the result of whole on shapes, split val, with different"
    damaged = "a result.json that is damaged or was not written by segkit"
    for arguments, message in [
        (same, None),
        (same, None),
        ([*same, "data.val_scenes=3"], f"{other} data. Choose another output"),
        ([*same, "evaluation.flip=true"], f"{other} protocol. Choose another output"),
        ([*same, "evaluation.evaluators.boundary=true"], f"{other} protocol. Choose another output"),
        (["checkpoint=other.pt", *same[1:]], f"{other} weights. Choose another output"),
        (same, damaged),
    ]:
        if message == damaged:
            result.write_text("{}")
        before = result.read_text() if message else None
        assert run_here("test_seg", *arguments) == (2 if message else 0)
        if message:
            assert message in capsys.readouterr().err
            assert result.read_text() == before
