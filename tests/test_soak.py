"""Memory, file handles, shared memory and processes of a long run do not grow."""

import json
import os
import sys
from pathlib import Path

import pytest

from runs import Run, is_alive

SETTINGS = ["schedule.iterations=2000", "loader.workers=2", "schedule.batch_size=2"]
SETTINGS += ["model.backbone.width=4", "model.head.width=4", "checkpoint.every=100", "evaluation.every=50"]


def list_names(folder):
    return [path.name for path in Path(folder).iterdir()]


def measure_process(pid):
    """Return resident and anonymous KiB, open files and threads of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    memory = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    handles, threads = (len(list_names(f"/proc/{pid}/{kind}")) for kind in ("fd", "task"))
    return {"KiB": memory["Rss"], "own KiB": memory["Anonymous"], "handles": handles, "threads": threads}


class Measure:
    """Append the measurements of this process and its workers to a file at every checkpoint."""

    def __init__(self, file):
        self.file = file

    def __call__(self):
        from segkit import checkpoint

        save = checkpoint.Checkpoints.save

        def save_and_measure(book, state):
            save(book, state)
            workers = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            line = {
                "iteration": state["iteration"],
                "self": measure_process(os.getpid()),
                "workers": {pid: measure_process(pid) for pid in workers},
                "shared": sum(name.startswith("torch_") for name in list_names("/dev/shm")),
            }
            with self.file.open("a") as file:
                file.write(json.dumps(line) + "\n")

        checkpoint.Checkpoints.save = save_and_measure


@pytest.mark.slow
def test_long_run_leaks_no_memory_files_or_processes(tmp_path):
    file = tmp_path / "measured"
    Run(tmp_path / "run", *SETTINGS, before=Measure(file)).complete(seconds=500)
    measured = [json.loads(line) for line in file.read_text().splitlines()]
    sys.stdout.write("".join(f"{line}\n" for line in measured))  # shown by -s
    early, late = ([line for line in measured if line["iteration"] == i][-1] for i in (200, 2000))
    # pages shared with forked workers count as well, so that copying them on write is no growth
    assert late["self"]["own KiB"] < 1.005 * early["self"]["own KiB"]
    assert late["self"]["threads"] <= early["self"]["threads"]
    assert set(late["workers"]) <= set(early["workers"])
    before, after = ({"self": line["self"], **line["workers"]} for line in (early, late))
    for pid, process in after.items():
        assert process["KiB"] < 1.05 * before[pid]["KiB"]
        assert process["handles"] <= before[pid]["handles"] + 2  # a queue's are counted while it is used
    assert late["shared"] <= early["shared"]
    assert not any(is_alive(int(pid)) for pid in early["workers"])
