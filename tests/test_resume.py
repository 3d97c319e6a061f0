"""A killed and resumed run ends bit-equal to an uninterrupted one, with the same files and curves."""

import random
import signal

import pytest

from runs import KillAt, Run, assert_same_end

pytestmark = pytest.mark.medium

FULL = ["schedule.accumulate=2", "schedule.ema=0.9", "runtime.precision=bf16", "loader.workers=2"]
FULL += ["model.head.dropout=0.1", "model.head.aspp_dropout=0.5", "augment.class_uniform_crop=0.5"]
FULL += ["loader.sampling=repeat_factor", "loader.repeat_threshold=0.5"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Without and with everything that has state; two processes."""
    folder = tmp_path_factory.mktemp("unbroken")
    plain, full = Run(folder / "plain"), Run(folder / "full", *FULL)
    return {"plain": plain.complete(), "full": full.complete()}


def until_complete(folder, settings, kills):
    """Kill a run at one point after the other, resuming it each time; then let it finish."""
    for kill in kills:
        assert Run(folder, *settings, "resume=auto", before=kill).exit_status() == -signal.SIGKILL
    return Run(folder, *settings, "resume=auto").complete()


@pytest.mark.parametrize("kind", ["plain", "full"])
def test_run_killed_at_any_iteration_ends_bit_equal(kind, unbroken, tmp_path):
    draw = random.Random(kind)
    step = "segkit.training.train_step"
    kills = [KillAt(step, draw.randint(1, 3))]  # before the first checkpoint
    kills += [KillAt(step, draw.randint(4, 6)), KillAt(step, draw.randint(4, 5))]
    folder = until_complete(tmp_path / "run", FULL if kind == "full" else [], kills)
    assert_same_end(unbroken[kind], folder)


def test_run_killed_while_saving_or_validating_ends_bit_equal(unbroken, tmp_path):
    kills = [
        KillAt("os.fsync", 1),  # a checkpoint is written, not yet on the disk, under its temporary name
        KillAt("segkit.checkpoint._link_as", 1),  # iteration_N.pt is there, last.pt is not
        KillAt("segkit.evaluation.evaluate", 1),
        KillAt("segkit.checkpoint.Checkpoints.save", 1),
    ]
    assert_same_end(unbroken["plain"], until_complete(tmp_path / "run", [], kills))
