"""A signal: the run finishes its iteration, saves and prints the command to resume; a second one exits."""

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from conftest import ROOT
from runs import CallBefore, Run, assert_same_end, is_alive, newest_iteration, terminate
from segkit.runtime import signals

STEP = "segkit.training.train_step"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("unbroken") / "run").complete()


def fail():
    raise KeyError("a bug")


def terminate_twice():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # at once: counts as the same request
    time.sleep(signals.REPEAT_SECONDS + 0.1)
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.medium
def test_signal_saves_and_the_resumed_run_ends_bit_equal(unbroken, tmp_path):
    folder = tmp_path / "run"
    # as Ctrl-C and cluster managers do; loader workers get the signal, too
    terminate_group = functools.partial(os.killpg, 0, signal.SIGTERM)
    stopped = Run(folder, "loader.workers=2", before=CallBefore(STEP, 5, terminate_group))
    assert stopped.exit_status() == 143
    assert newest_iteration(folder) == 5
    assert "SIGTERM: finishing the current training step" in stopped.output
    assert "A second signal exits at once" in stopped.output
    assert re.search(r"stopped by SIGTERM; to resume: (\.venv\S*/bin/)?python\S* ", stopped.output)
    assert "resume=true" in stopped.output
    assert not list(folder.glob("*.lock"))

    # during a validation, which the resumed run repeats
    interrupt = functools.partial(signal.raise_signal, signal.SIGINT)
    scoring = CallBefore("segkit.evaluation.metrics.ConfusionMatrix.update", 1, interrupt)
    stopped = Run(folder, "resume=true", "loader.workers=2", before=scoring)
    assert stopped.exit_status() == 130
    assert newest_iteration(folder) == 8
    assert torch.load(folder / "last.pt", weights_only=True)["validation_pending"]
    assert_same_end(unbroken, Run(folder, "resume=true").complete())


@pytest.mark.medium
def test_signal_in_the_first_validation_image_saves(unbroken, tmp_path):
    folder = tmp_path / "run"
    signaled = CallBefore("segkit.evaluation.scoring._read_sample", 1, terminate)
    stopped = Run(folder, before=signaled)
    assert stopped.exit_status() == 143
    assert "nothing to score" not in stopped.output
    assert "resume=true" in stopped.output
    assert torch.load(folder / "last.pt", weights_only=True)["validation_pending"]
    assert newest_iteration(folder) == 4
    assert not (folder / "result.json").exists()
    assert_same_end(unbroken, Run(folder, "resume=true").complete())


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

settings = {"num_workers": 1, "multiprocessing_context": "fork"}
batches = iter(DataLoader(Numbers(), worker_init_fn=signals.ignore_group_signals, **settings))
time.sleep(100)
"""


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.medium
def test_worker_outlives_group_signals_but_not_its_parent(tmp_path):
    script, pid = tmp_path / "parent.py", tmp_path / "pid"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, script, pid], env=environment)
    wait_until(pid.exists)
    worker = int(pid.read_text())
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(worker, number)
    time.sleep(1)
    assert is_running(worker)
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_running(worker), seconds=20)  # of the 60 that it may outlive a SIGTERM


def is_running(pid):
    """Return whether a process exists and is no zombie."""
    if not is_alive(pid):
        return False
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.medium
def test_workers_do_not_delay_a_failing_run(tmp_path):
    failing = Run(tmp_path / "run", "loader.workers=2", before=CallBefore(STEP, 3, fail))
    assert failing.exit_status(seconds=50) == 1  # a worker outlives a SIGTERM by 60
    assert "KeyError: 'a bug'" in failing.output


@pytest.mark.medium
def test_second_signal_exits_at_once(tmp_path):
    folder = tmp_path / "run"
    assert Run(folder, before=CallBefore(STEP, 5, terminate_twice)).exit_status() == 143
    assert newest_iteration(folder) == 4


def test_command_to_resume_repeats_the_command_line(monkeypatch):
    monkeypatch.setattr(signals.sys, "executable", "/usr/bin/python3")
    arguments = ["train_seg.py", "model=deeplabv3_demo", "++run_name=a b", "++resume=auto"]
    command = "train_seg.py model=deeplabv3_demo 'run_name=a b' resume=true"
    assert signals.command_to_resume(arguments) == f"python3 {command}"
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert signals.command_to_resume(arguments) == f"torchrun ... {command}"
