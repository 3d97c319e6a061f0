"""Several processes compute what one does, and stop and resume together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ROOT
from runs import (
    SMALL,
    CallBefore,
    KillAt,
    Run,
    assert_same_end,
    newest_iteration,
    ranks,
    read_curves,
    terminate,
)

pytestmark = pytest.mark.medium

CALM = ["schedule.batch_size=6", "schedule.lr=0.0005", "schedule.head_lr_multiplier=1"]
CALM += ["schedule.freeze_norm=true"]  # statistics of batches are synchronized on GPUs alone
CALM += ["schedule.freeze=1"]
CALM += ["model.backbone.output_stride=8"]  # rounding grows slowly, and crosses no kink of a rectifier


class PrintSteps:
    """Print numbers of every step: loss, norm of the gradient, sum of the buffers, and whether it moved.

    With ``unscore``, all labels are ignored on rank 1, and on both ranks in iterations 2 and 5.
    """

    def __init__(self, *, unscore=False):
        self.unscore = unscore

    def __call__(self):
        from segkit import training
        from segkit.types import IGNORE_INDEX

        step = training.train_step

        def print_step(run, batches):
            if self.unscore and (os.environ["RANK"] == "1" or run.iteration in (1, 4)):
                batches = [b._replace(label=torch.full_like(b.label, IGNORE_INDEX)) for b in batches]
            networks = [network for network in (run.model, run.ema_model) if network is not None]
            states = [*(network.state_dict() for network in networks), *run.optimizer.state.values()]
            tensors = [tensor for state in states for tensor in state.values()]
            before = [tensor.clone() for tensor in tensors]
            result = step(run, batches)
            has_moved = any(not torch.equal(a, b) for a, b in zip(before, tensors, strict=True))
            loss, norm = float(sum(result.losses.values())), float(result.gradient_norm)
            statistics = sum(float(buffer.double().sum()) for buffer in run.model.buffers())
            sys.stdout.write(f"step {loss} {norm} {statistics} {has_moved:d}\n")
            return result

        training.train_step = print_step


def read_steps(run):
    """Return the printed numbers, (iterations, 4)."""
    lines = [line.split()[1:] for line in run.output.splitlines() if line.startswith("step ")]
    return np.array(lines, dtype=float)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A complete run of one process."""
    run = Run(tmp_path_factory.mktemp("runs") / "one", *CALM, before=PrintSteps())
    run.complete()
    return run


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_have_the_loss_curve_of_one(count, one, tmp_path):
    several = ranks(count, tmp_path / "several", *CALM, "loader.workers=1", before=PrintSteps())
    folders = [run.complete() for run in (one, several[0])]
    curve = read_steps(one)
    assert len(curve) == 10
    for run in several:
        run.complete()
        np.testing.assert_allclose(read_steps(run), curve, rtol=1e-4)
        np.testing.assert_array_equal(read_steps(run), read_steps(several[0]))
    first, second = (torch.load(folder / "last.pt", weights_only=True) for folder in folders)
    for name, tensor in first["model"].items():
        torch.testing.assert_close(second["model"][name], tensor, rtol=1e-4, atol=1e-5)
    assert len(list((tmp_path / "several").glob("events.*"))) == 1
    assert read_curves(folders[0]).keys() == read_curves(folders[1]).keys()
    for run in several[1:]:  # only the main process logs
        assert all(line.startswith("step ") for line in run.output.splitlines()), run.output


def test_step_is_taken_if_any_process_has_a_scored_pixel(tmp_path):
    settings = ["schedule.accumulate=2", "schedule.batch_size=8", "schedule.ema=0.9", "schedule.lr=0.001"]
    both = ranks(2, tmp_path / "run", *settings, before=PrintSteps(unscore=True))
    for run in both:
        run.complete()
    first, second = map(read_steps, both)
    assert first[:, 3].tolist() == [k not in (2, 5) for k in range(1, 11)]
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)  # batch statistics are averaged
    warning = "careful: 2 processes on a CPU: batch normalization sees the images of one process at a time"
    assert [run.output.count(warning) for run in both] == [1, 0]


def test_signal_to_one_process_stops_all_and_resumes_bit_equal(tmp_path):
    settings = ["schedule.accumulate=2", "schedule.batch_size=8", "schedule.ema=0.9"]
    unbroken = ranks(2, tmp_path / "unbroken", *settings)
    stop = CallBefore("segkit.training.train_step", 5, terminate, rank="1")
    broken = ranks(2, tmp_path / "run", *settings, before=stop)
    assert [run.exit_status() for run in broken] == [143, 143]
    assert newest_iteration(tmp_path / "run") == 5
    killed = ranks(2, tmp_path / "run", *settings, "resume=auto", before=KillAt("os.fsync", 2))
    assert killed[0].exit_status() == -signal.SIGKILL
    assert killed[1].exit_status() != 0  # gloo reports that its peer has ended
    for run in (*unbroken, *ranks(2, tmp_path / "run", *settings, "resume=auto")):
        run.complete()
    assert_same_end(tmp_path / "unbroken", tmp_path / "run")


def torchrun(folder, *settings):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command += ["train_seg.py", *SMALL, *settings, "resume=auto"]
    command += [f"run_dir={folder.parent}", f"run_name={folder.name}"]
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
    )


def find_rank(agent, rank):
    """Return the pid of a rank, from the children of torchrun."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    environments = {int(pid): Path(f"/proc/{pid}/environ").read_text().split("\0") for pid in children}
    return next(pid for pid, environment in environments.items() if f"RANK={rank}" in environment)


def wait_for(agent, folder, iteration):
    until = time.monotonic() + 120
    while newest_iteration(folder) < iteration:
        assert agent.poll() is None, agent.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.slow
def test_torchrun_restarts_killed_processes_and_stops_on_signals(tmp_path):
    long = ["schedule.iterations=60", "evaluation.every=20", "checkpoint.every=5"]
    unbroken = ranks(2, tmp_path / "unbroken", *long)
    for run in unbroken:
        run.complete()
    folder = tmp_path / "run"
    agent = torchrun(folder, *long)
    wait_for(agent, folder, 5)
    os.kill(find_rank(agent, 1), signal.SIGKILL)
    wait_for(agent, folder, 20)
    agent.terminate()
    output = agent.communicate(timeout=120)[0]
    assert agent.returncode != 0
    assert "stopped by SIGTERM; to resume: torchrun ... train_seg.py" in output
    assert newest_iteration(folder) < 60
    for run in ranks(2, folder, *long, "resume=true"):
        run.complete()
    assert_same_end(tmp_path / "unbroken", folder)
