"""Asked to leave, a run finishes its iteration, saves, and says how to go on; asked twice, it goes."""

import os
import re
import signal
import time

import pytest
import torch

from runs import Act, Run, assert_same_end, newest
from segkit import signals


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("unbroken") / "run").completes()


def to_the_whole_group():
    """As Ctrl-C and cluster managers do: loader workers are hit, too."""
    os.killpg(0, signal.SIGTERM)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def terminate_twice():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # at once: one request that came two ways
    time.sleep(signals.ONE + 0.1)
    os.kill(os.getpid(), signal.SIGTERM)


def test_leaving_saves_and_the_resumed_run_ends_the_same(unbroken, tmp_path):
    folder = tmp_path / "run"
    leaving = Run(folder, "loader.workers=2", before=Act("segkit.training.train_step", 5, to_the_whole_group))
    assert leaving.ends() == 143
    assert newest(folder) == 5
    assert "SIGTERM: saving after this iteration; once more leaves now" in leaving.said
    assert re.search(r"left on SIGTERM; to go on: (\.venv/bin/)?python\S* ", leaving.said)
    assert "resume=true" in leaving.said
    assert not list(folder.glob("*.lock"))

    # during a validation: it is broken off, and made good when the run goes on
    scoring = Act("segkit.metrics.ConfusionMatrix.update", 1, interrupt)
    leaving = Run(folder, "resume=true", "loader.workers=2", before=scoring)
    assert leaving.ends() == 130
    assert newest(folder) == 8
    assert torch.load(folder / "last.pt", weights_only=True)["owes_scores"]
    assert_same_end(unbroken, Run(folder, "resume=true").completes())


def test_a_second_signal_leaves_at_once(tmp_path):
    folder = tmp_path / "run"
    assert Run(folder, before=Act("segkit.training.train_step", 5, terminate_twice)).ends() == 143
    assert newest(folder) == 3


def test_the_command_to_resume_is_the_one_that_was_typed(monkeypatch):
    monkeypatch.setattr(signals.sys, "executable", "/usr/bin/python3")
    typed = ["train_seg.py", "model=deeplabv3_demo", "++run_name=a b", "++resume=auto"]
    words = "train_seg.py model=deeplabv3_demo 'run_name=a b' resume=true"
    assert signals.command_to_resume(typed) == f"python3 {words}"
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert signals.command_to_resume(typed) == f"torchrun ... {words}"
