"""A long run keeps its size: memory, file handles, shared memory and processes do not grow."""

import json
import os
from pathlib import Path

import pytest

from runs import Run, alive

SETTINGS = ["schedule.iterations=2000", "loader.workers=2", "schedule.batch_size=2"]
SETTINGS += ["model.backbone.width=4", "model.head.width=4", "checkpoint.every=100", "evaluation.every=200"]


def of(pid):
    """What one process holds: KiB of memory (shared pages by their share), open files, threads."""
    proportional = next(
        line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")
    )
    handles = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names alone
    return {
        "KiB": int(proportional.split()[1]),
        "handles": handles,
        "threads": len(os.listdir(f"/proc/{pid}/task")),  # noqa: PTH208
    }


class Measure:
    """At every checkpoint, append what this process and its workers hold to a file."""

    def __init__(self, file):
        self.file = file

    def __call__(self):
        from segkit import checkpoint

        save = checkpoint.Checkpoints.save

        def measured(book, state):
            save(book, state)
            task = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            shared = len(list(Path("/dev/shm").glob("torch_*")))
            line = {"self": of(os.getpid()), "workers": {pid: of(pid) for pid in task}, "shared": shared}
            with self.file.open("a") as file:
                file.write(json.dumps({"iteration": state["iteration"], **line}) + "\n")

        checkpoint.Checkpoints.save = measured


@pytest.mark.slow
def test_two_thousand_iterations_leak_nothing(tmp_path, record_property):
    file = tmp_path / "measured"
    Run(tmp_path / "run", *SETTINGS, before=Measure(file)).completes()
    measured = [json.loads(line) for line in file.read_text().splitlines()]
    early, late = (next(m for m in measured if m["iteration"] == i) for i in (200, 2000))
    assert late["self"]["KiB"] < 1.05 * early["self"]["KiB"]
    assert late["self"]["handles"] <= early["self"]["handles"]
    assert late["self"]["threads"] <= early["self"]["threads"]
    assert set(late["workers"]) <= set(early["workers"])
    for pid, worker in late["workers"].items():
        assert worker["KiB"] < 1.05 * early["workers"][pid]["KiB"]
        assert worker["handles"] <= early["workers"][pid]["handles"]
    assert late["shared"] <= early["shared"]
    assert not any(alive(int(pid)) for pid in early["workers"])
    record_property("early", early)
    record_property("late", late)
