"""The SLURM files of docs/clusters.md: they parse, start what they say, and requeue when the time is over."""

import os
import re
import shlex
import signal
import subprocess
import time

import pytest
from torch.distributed.run import parse_args

from conftest import ROOT
from segkit.config.compose import compose_settings

pytestmark = pytest.mark.medium

FILES = sorted((ROOT / "docs" / "slurm").glob("*.sbatch"))
OPTIONS = (
    "job-name nodes ntasks-per-node gpus gpus-per-node cpus-per-task time signal requeue open-mode output"
)
SETTINGS = ["model=deeplabv3_demo", "run_name=first", "seed=3"]
RECORD = '#!/bin/bash\nprintf "%s\\n" "${0##*/}" "$@" >> "$RECORD"\n'
SCONTROL = RECORD + '[ "$1" = show ] && printf "node1\\nnode2\\n"\nexit 0\n'
WORK = 'trap "echo saved >> $RECORD; exit 143" TERM\nwhile :; do sleep 0.05; done\n'


@pytest.fixture
def cluster(tmp_path):
    """Stand-ins for SLURM's commands and for our Python, which write down how they are called."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "sweep.txt").write_text("\n".join(["a=1", shlex.join(SETTINGS), "b=2"]))
    record = tmp_path / "record"
    variables = {"SLURM_JOB_ID": "17", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    variables |= {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2", "SLURM_GPUS_ON_NODE": "8"}
    variables |= {"SLURM_CPUS_PER_TASK": "64"}
    variables |= {"RECORD": str(record), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    def start(file, work):
        for path in (tmp_path / "bin" / "srun", tmp_path / ".venv" / "bin" / "python"):
            path.write_text(RECORD + work)
            path.chmod(0o755)
        (tmp_path / "bin" / "scontrol").write_text(SCONTROL)
        (tmp_path / "bin" / "scontrol").chmod(0o755)
        arguments = ["sweep.txt"] if file.stem == "sweep" else SETTINGS
        return subprocess.Popen(["bash", file, *arguments], cwd=tmp_path, env={**os.environ, **variables})

    return start, record


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_options_and_commands_of_slurm_files_are_valid(file, cluster):
    options = re.findall(r"^#SBATCH --([\w-]+)", file.read_text(), re.MULTILINE)
    assert options
    assert set(options) <= set(OPTIONS.split())
    assert f"docs/slurm/{file.name}" in (ROOT / "docs" / "clusters.md").read_text()
    start, record = cluster
    assert start(file, "exit 0\n").wait(20) == 0
    called = record.read_text().splitlines()
    assert "requeue" not in called
    arguments = called[called.index("train_seg.py") + 1 :]
    workers = {"train": 7, "sweep": 63}[file.stem]  # of 64 CPUs, for 8 processes or one
    assert arguments == [f"loader.workers={workers}", *SETTINGS, "resume=auto"]
    settings = compose_settings("train", arguments)
    assert (settings["seed"], settings["loader"]["workers"]) == (3, workers)
    assert (
        compose_settings("train", [*arguments, "loader.workers=2"])["loader"]["workers"] == 2
    )  # what is typed wins
    if file.stem == "train":
        torchrun = parse_args(called[called.index("torch.distributed.run") + 1 :])
        assert (torchrun.nnodes, torchrun.nproc_per_node) == ("2", "8")
        assert (torchrun.rdzv_endpoint, torchrun.training_script) == ("node1:20017", "train_seg.py")


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_run_is_saved_and_requeued_at_the_time_limit(file, cluster):
    start, record = cluster
    job = start(file, WORK)
    while not (record.exists() and "train_seg.py" in record.read_text()):
        time.sleep(0.02)
    time.sleep(0.3)  # for the trap to stand
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == 143
    lines = record.read_text().splitlines()
    assert lines.index("saved") < lines.index("requeue")
    assert lines[-1].startswith("17")
