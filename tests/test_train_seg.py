"""The command train_seg.py."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_sample_images
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import ROOT, run_command, write_image
from segkit import checkpoint

pytestmark = pytest.mark.medium
COMMANDS = ["train_seg.py", "test_seg.py", "predict_seg.py", "export_seg.py"]


def test_summary_needs_no_data_and_downloads_nothing(run_here, monkeypatch, capsys, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("a download was asked for")

    monkeypatch.setattr("segkit.models.published.fetch", refuse)
    status = run_here("train_seg", "model=deeplabv3_resnest50", "model.backbone.width=8", "data=ade20k",
                      f"data.root={tmp_path}/none", "summary=true", "sizes.crop=64",
                      f"run_dir={tmp_path}/runs")  # fmt: skip
    assert status == 0
    out = capsys.readouterr().out
    for words in ("\nstage 4 ", "GMACs", "operations of convolutions"):
        assert words in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["model.weights", "model.backbone.weights"])
def test_summary_refuses_weights_that_do_not_exist(key, run_here, capsys, tmp_path):
    arguments = ["model=deeplabv3_demo", "data=shapes", "summary=true", f"run_dir={tmp_path}"]
    assert run_here("train_seg", *arguments, f"{key}={tmp_path}/no.pth") == 2
    assert f"{key}={tmp_path}/no.pth: there is no such file" in capsys.readouterr().err
    assert run_here("train_seg", *arguments, f"{key}=https://example.org/x.pth") == 0  # not downloaded


@pytest.mark.parametrize("script", [*COMMANDS, "datasets/folder.py"])
def test_ctrl_c_during_imports_ends_in_one_line(script, tmp_path):
    (tmp_path / "hydra.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs ignore it
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (130, "", "stopped\n")


def test_run_writes_weights_images_scores_and_curves(tiny_run):
    assert {"best.pt", "last.pt", "samples.png", "result.json", "train.log"} <= {
        p.name for p in tiny_run.iterdir()
    }
    result = json.loads((tiny_run / "result.json").read_text())
    best = checkpoint.read_checkpoint(tiny_run / "best.pt")
    assert result["scores"] == best["scores"]
    assert result["protocol"]["name"] == "whole"
    tags = EventAccumulator(str(tiny_run)).Reload().Tags()["scalars"]
    assert {"train/loss", "train/lr", "val/loss", "val/pixAcc", "val/mIoU", "val_iou/ground"} <= set(tags)


@pytest.mark.slow
def test_demo_learns(tmp_path):
    """A third of `make demo`, which reaches 0.80."""
    found = run_command("train_seg.py", "experiment=demo", f"run_dir={tmp_path}", "schedule.iterations=130",
                        "evaluation.every=130", "data.val_scenes=40")  # fmt: skip
    scores = json.loads((tmp_path / "demo" / "result.json").read_text())["scores"]
    assert scores["mIoU"] > 0.5
    for words in ("validation at 130", "striped triangle", "test_seg.py checkpoint=", "predict_seg.py"):
        assert words in found.stdout


@pytest.mark.slow
def test_training_overfits_photographs_in_the_ade20k_layout(tmp_path):
    """A short piece of experiment=overfit, which ends at 0.95 (docs/results.md)."""
    for index, image in enumerate(load_sample_images().images):
        gray = image.mean(-1)
        label = np.digitize(gray, np.quantile(gray, [0.1, 0.5, 0.8])) + 1  # 1 to 4; 0 is "other"
        for folder, name, array in (("images", "jpg", image), ("annotations", "png", label)):
            file = tmp_path / folder / "validation" / f"ADE_val_{index:08}.{name}"
            write_image(file, array.astype(np.uint8))
    where = [f"data.root={tmp_path}", "data.train_split=validation", f"run_dir={tmp_path}", "run_name=a"]
    length = ["sizes.crop=224", "schedule.iterations=50", "loader.workers=0"]
    run_command("train_seg.py", "experiment=overfit", *where, *length)
    scores = json.loads((tmp_path / "a" / "result.json").read_text())["scores"]
    assert scores["pixAcc"] > 0.65  # the most frequent class alone has 0.40
