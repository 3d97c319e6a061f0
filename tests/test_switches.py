"""Rarely used switches of a training."""

import re
import shutil

import pytest
import torch

from conftest import run_command
from segkit import checkpoint

pytestmark = pytest.mark.medium

SMALL = ["experiment=demo", "data.size=32", "data.val_scenes=2", "augment.crop_size=32", "device=cpu"]
SMALL += ["model.backbone.width=8", "model.head.width=16", "schedule.batch_size=2", "schedule.ema=null"]
SMALL += ["schedule.iterations=2", "schedule.lr_schedule.warmup_iterations=0", "evaluation.every=2"]
SMALL += ["loader.workers=0"]


def weights(folder):
    return checkpoint.read_checkpoint(folder / "last.pt")["model"]


@pytest.mark.slow
def test_profile_lists_operations_and_saves_nothing(run_here, tmp_path, capsys):
    words = [*SMALL, f"run_dir={tmp_path}", "run_name=a", "profile=true", "schedule.iterations=20"]
    assert run_here("train_seg", *words) == 0
    assert re.search(r"forward|backward|optimizer", capsys.readouterr().out)
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.slow
def test_jobs_of_a_sweep_are_separate_runs(tmp_path):
    two = ["--multirun", "seed=1,2", f"run_dir={tmp_path}", "run_name=m"]
    run_command("train_seg.py", *SMALL, *two)
    for seed in (1, 2):
        content = checkpoint.read_checkpoint(tmp_path / f"m-seed={seed}" / "last.pt")
        assert content["settings"]["seed"] == seed


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler")
def test_compiled_training_is_close_to_eager(tmp_path):
    one = ["schedule.iterations=1", "evaluation.every=1"]  # AdamW then magnifies what rounding began
    for name, compiled in (("plain", "false"), ("compiled", "true")):
        where = [f"run_dir={tmp_path}", f"run_name={name}", f"runtime.compile={compiled}"]
        run_command("train_seg.py", *SMALL, *where, *one, "runtime.precision=float32")
    for name, value in weights(tmp_path / "plain").items():
        assert torch.allclose(value.float(), weights(tmp_path / "compiled")[name].float(), atol=1e-2), name
