"""Asked to leave, a run finishes its iteration, saves, and says how to go on; asked twice, it goes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from runs import ROOT, Act, Run, alive, assert_same_end, newest
from segkit.runtime import signals


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("unbroken") / "run").completes()


def to_the_whole_group():
    """As Ctrl-C and cluster managers do: loader workers are hit, too."""
    os.killpg(0, signal.SIGTERM)


class Send:
    """Send a signal to this process."""

    def __init__(self, number):
        self.number = number

    def __call__(self):
        os.kill(os.getpid(), self.number)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def fail():
    raise KeyError("a bug")


def terminate_twice():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # at once: one request that came two ways
    time.sleep(signals.REPEAT_SECONDS + 0.1)
    os.kill(os.getpid(), signal.SIGTERM)


def test_leaving_saves_and_the_resumed_run_ends_the_same(unbroken, tmp_path):
    folder = tmp_path / "run"
    leaving = Run(folder, "loader.workers=2", before=Act("segkit.training.train_step", 5, to_the_whole_group))
    assert leaving.ends() == 143
    assert newest(folder) == 5
    assert "SIGTERM: finishing the current training step" in leaving.said
    assert "A second signal exits at once" in leaving.said
    assert re.search(r"stopped by SIGTERM; to resume: (\.venv\S*/bin/)?python\S* ", leaving.said)
    assert "resume=true" in leaving.said
    assert not list(folder.glob("*.lock"))

    # during a validation: it is broken off, and made good when the run goes on
    scoring = Act("segkit.evaluation.metrics.ConfusionMatrix.update", 1, interrupt)
    leaving = Run(folder, "resume=true", "loader.workers=2", before=scoring)
    assert leaving.ends() == 130
    assert newest(folder) == 8
    assert torch.load(folder / "last.pt", weights_only=True)["validation_pending"]
    assert_same_end(unbroken, Run(folder, "resume=true").completes())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_leaving_during_the_first_image_of_a_validation_saves(number, status, unbroken, tmp_path):
    folder = tmp_path / "run"
    asked = Act("segkit.evaluation.scoring._Indexed.__getitem__", 1, Send(number))
    leaving = Run(folder, before=asked)
    assert leaving.ends() == status
    assert "nothing to score" not in leaving.said
    assert "resume=true" in leaving.said
    assert torch.load(folder / "last.pt", weights_only=True)["validation_pending"]
    assert newest(folder) == 4
    assert not (folder / "result.json").exists()
    assert_same_end(unbroken, Run(folder, "resume=true").completes())


PARENT = """
import os, sys, time
from pathlib import Path
from torch.utils.data import DataLoader
from segkit.runtime import signals

class Numbers:
    def __len__(self):
        return 1000

    def __getitem__(self, index):
        part = Path(sys.argv[1] + ".part")
        part.write_text(str(os.getpid()))
        part.rename(sys.argv[1])
        return index

batches = iter(DataLoader(Numbers(), num_workers=1, worker_init_fn=signals.ignore_group_signals))
time.sleep(100)
"""


def until(something, seconds=30):
    end = time.monotonic() + seconds
    while not something():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.medium
def test_a_worker_outlives_signals_to_its_group_but_not_its_parent(tmp_path):
    script, pid = tmp_path / "parent.py", tmp_path / "pid"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, script, pid], env=environment)
    until(pid.exists)
    worker = int(pid.read_text())
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(worker, number)
    time.sleep(1)
    assert running(worker)
    parent.kill()
    parent.wait()
    until(lambda: not running(worker), seconds=20)  # of the 60 that it may outlive a SIGTERM


def running(pid):
    """Whether a process is there and no zombie."""
    if not alive(pid):
        return False
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_workers_do_not_delay_the_end_of_a_run_that_fails(tmp_path):
    failing = Run(tmp_path / "run", "loader.workers=2", before=Act("segkit.training.train_step", 3, fail))
    assert failing.ends(seconds=50) == 1  # a worker outlives a SIGTERM by 60
    assert "KeyError: 'a bug'" in failing.said


def test_a_second_signal_leaves_at_once(tmp_path):
    folder = tmp_path / "run"
    assert Run(folder, before=Act("segkit.training.train_step", 5, terminate_twice)).ends() == 143
    assert newest(folder) == 4


def test_the_command_to_resume_is_the_one_that_was_typed(monkeypatch):
    monkeypatch.setattr(signals.sys, "executable", "/usr/bin/python3")
    typed = ["train_seg.py", "model=deeplabv3_demo", "++run_name=a b", "++resume=auto"]
    words = "train_seg.py model=deeplabv3_demo 'run_name=a b' resume=true"
    assert signals.command_to_resume(typed) == f"python3 {words}"
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert signals.command_to_resume(typed) == f"torchrun ... {words}"
