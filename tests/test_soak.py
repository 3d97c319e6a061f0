"""Memory, file handles, shared memory and processes of a long run do not grow."""

import json
import os
import sys
from pathlib import Path

import pytest

from runs import Run, is_alive

SETTINGS = ["schedule.iterations=2000", "loader.workers=2", "schedule.batch_size=2"]
SETTINGS += ["model.backbone.width=4", "model.head.width=4", "checkpoint.every=100", "evaluation.every=50"]


def measure_process(pid):
    """Return resident and private KiB, open files and threads of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    memory = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    handles = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - only names
    return {
        "KiB": memory["Rss"],
        "own KiB": memory["Private_Dirty"],
        "handles": handles,
        "threads": len(os.listdir(f"/proc/{pid}/task")),  # noqa: PTH208
    }


class Measure:
    """Append the measurements of this process and its workers to a file at every checkpoint."""

    def __init__(self, file):
        self.file = file

    def __call__(self):
        from segkit import checkpoint

        save = checkpoint.Checkpoints.save

        def save_and_measure(book, state):
            save(book, state)
            task = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            shared = len(list(Path("/dev/shm").glob("torch_*")))
            line = {
                "self": measure_process(os.getpid()),
                "workers": {pid: measure_process(pid) for pid in task},
                "shared": shared,
            }
            with self.file.open("a") as file:
                file.write(json.dumps({"iteration": state["iteration"], **line}) + "\n")

        checkpoint.Checkpoints.save = save_and_measure


@pytest.mark.medium
@pytest.mark.slow
def test_long_run_leaks_no_memory_files_or_processes(tmp_path):
    file = tmp_path / "measured"
    Run(tmp_path / "run", *SETTINGS, before=Measure(file)).complete(seconds=500)
    save_and_measure = [json.loads(line) for line in file.read_text().splitlines()]
    sys.stdout.write("".join(f"{m}\n" for m in save_and_measure))  # shown by -s
    early, late = ([m for m in save_and_measure if m["iteration"] == i][-1] for i in (200, 2000))
    assert late["self"]["own KiB"] < 1.03 * early["self"]["own KiB"]
    assert late["self"]["KiB"] < 1.05 * early["self"]["KiB"]
    assert late["self"]["handles"] <= early["self"]["handles"] + 2  # a queue's are counted while it is used
    assert late["self"]["threads"] <= early["self"]["threads"]
    assert set(late["workers"]) <= set(early["workers"])
    for pid, worker in late["workers"].items():
        assert worker["KiB"] < 1.05 * early["workers"][pid]["KiB"]
        assert worker["handles"] <= early["workers"][pid]["handles"] + 2
    assert late["shared"] <= early["shared"]
    assert not any(is_alive(int(pid)) for pid in early["workers"])
