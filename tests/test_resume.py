"""A killed and resumed run ends bit-equal to an uninterrupted one, with the same files and curves."""

import random
import signal

import pytest

from runs import KillAt, Run, assert_same_end

pytestmark = pytest.mark.medium

FULL = ["schedule.accumulate=2", "schedule.ema=0.9", "runtime.precision=bf16", "loader.workers=2"]
FULL += ["model.head.dropout=0.1", "model.head.aspp_dropout=0.5", "augment.class_uniform_crop=0.5"]
FULL += ["loader.sampling=repeat_factor", "loader.repeat_threshold=0.5"]


def until_complete(folder, settings, kills):
    """Kill a run at one point after the other, resuming it each time; then let it finish."""
    for kill in kills:
        assert Run(folder, *settings, "resume=auto", before=kill).exit_status() == -signal.SIGKILL
    return Run(folder, *settings, "resume=auto").complete()


def test_run_killed_at_any_iteration_ends_bit_equal(tmp_path):
    unbroken = Run(tmp_path / "unbroken", *FULL)  # everything that has state
    draw = random.Random("full")
    step = "segkit.training.train_step"
    kills = [KillAt(step, draw.randint(1, 3))]  # before the first checkpoint
    kills += [KillAt(step, draw.randint(4, 6)), KillAt(step, draw.randint(4, 5))]
    assert_same_end(unbroken.complete(), until_complete(tmp_path / "run", FULL, kills))


def test_run_killed_while_saving_or_validating_ends_bit_equal(tmp_path):
    unbroken = Run(tmp_path / "unbroken")
    kills = [
        KillAt("os.fsync", 1),  # a checkpoint is written, not yet on the disk, under its temporary name
        KillAt("segkit.checkpoint._link_as", 1),  # iteration_N.pt is there, last.pt is not
        KillAt("segkit.evaluation.evaluate", 1),
        KillAt("segkit.checkpoint.Checkpoints.save", 1),
    ]
    assert_same_end(unbroken.complete(), until_complete(tmp_path / "run", [], kills))
