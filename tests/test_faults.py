"""Disks that fill, folders that cannot be written, data that vanish: a run ends in words, nothing is lost."""

import os
import resource
import shutil
import signal
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from runs import Act, KillAt, Run, assert_same_end, newest
from segkit import checkpoint
from segkit.runtime import files, run_folder

STEP = "segkit.training.train_step"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("finished") / "run").completes()


def quota():
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # bytes of one file


def test_no_room_for_a_checkpoint_leaves_the_one_before_whole(finished, tmp_path):
    folder = tmp_path / "run"
    run = Run(folder, before=Act("segkit.checkpoint.write_checkpoint", 5, quota))  # at 3, 4, best, 4, at 6
    assert run.ends() == 2
    assert "iteration_0000006.pt: could not be written" in run.said
    assert "Make room in" in run.said
    assert "resume=true from the checkpoint before, which is intact" in run.said
    assert "Traceback" not in run.said
    assert newest(folder) == checkpoint.read_checkpoint(folder / "last.pt")["iteration"] == 4
    assert not list(folder.glob("*.part"))

    newer = KillAt(STEP, 4)  # resumed, killed after the checkpoint at 6, and that one is then damaged
    assert Run(folder, "resume=true", before=newer).ends() == -signal.SIGKILL
    file = folder / "iteration_0000006.pt"
    file.write_bytes(file.read_bytes()[:-1000])
    resumed = Run(folder, "resume=true")
    assert_same_end(finished, resumed.completes())
    assert "iteration_0000006.pt: damaged" in resumed.said
    assert "trying the checkpoint before it" in resumed.said


class LimitFileSize:
    """Make writing beyond this many bytes fail halfway, as on a full disk."""

    def __init__(self, limit):
        self.limit = limit

    def __call__(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.limit))


def test_failed_write_ends_in_one_line_and_leaves_no_partial_file(tmp_path):
    run = Run(tmp_path / "run", before=LimitFileSize(100_000))
    assert run.ends() == 2, run.said
    assert "File too large" in run.said
    assert "Traceback" not in run.said
    assert not list(tmp_path.glob("run/*.part"))
    for file in tmp_path.glob("run/*.pt"):
        checkpoint.read_checkpoint(file)


@pytest.fixture
def read_only():
    """A folder that this process may look at and not change; root becomes somebody else for it."""
    folder = Path(tempfile.mkdtemp())
    (folder / "runs").mkdir(mode=0o555)
    folder.chmod(0o755)
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield folder / "runs"
        os.seteuid(0)
    else:
        yield folder / "runs"
    shutil.rmtree(folder)


def test_a_folder_that_cannot_be_written_is_named(read_only):
    with (
        pytest.raises(OSError, match=r"runs/a: cannot be written \(Permission denied\)\. Choose .* run_dir="),
        run_folder.lock_run_folder(read_only / "a", resume="auto"),
    ):
        pass


def test_an_output_folder_that_cannot_be_written_is_named_before_the_work(read_only):
    for place in (read_only, read_only / "out"):
        with pytest.raises(OSError, match=rf"output={place}: cannot be written .* Choose another output="):
            files.make_output_folder(place)


def own_data(root):
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for i in range(4):
            cv2.imwrite(
                str(root / "images" / split / f"{i}.png"), draw.integers(0, 256, (32, 32, 3), np.uint8)
            )
            cv2.imwrite(str(root / "masks" / split / f"{i}.png"), draw.integers(0, 2, (32, 32), np.uint8))
    (root / "classes.csv").write_text("id,name\n0,a\n1,b\n")
    return ["data=folder", f"data.root={root}", "~data.size", "~data.train_scenes", "~data.val_scenes"]


class Remove:
    def __init__(self, folder):
        self.folder = folder

    def __call__(self):
        shutil.rmtree(self.folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_data_that_vanish_end_the_run_in_words(workers, tmp_path):
    data = own_data(tmp_path / "data")
    away = Act(STEP, 5, Remove(tmp_path / "data"))
    run = Run(
        tmp_path / "run",
        *data,
        f"loader.workers={workers}",
        "schedule.iterations=100",
        "sizes.crop=32",
        before=away,
    )
    assert run.ends() == 2
    assert "No such file or directory; is data.root complete?" in run.said
    assert str(tmp_path / "data") in run.said
    assert "Traceback" not in run.said
    assert newest(tmp_path / "run") in (3, 4, 6, 8, 9)
    checkpoint.read_checkpoint(tmp_path / "run" / "last.pt")


def test_a_broken_validation_image_costs_no_iteration(tmp_path):
    data = own_data(tmp_path / "data")
    broken = tmp_path / "data" / "images" / "val" / "0.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    settings = [*data, "sizes.crop=32", "schedule.iterations=5"]
    run = Run(tmp_path / "run", *settings)
    assert run.ends() == 2
    assert str(broken) in run.said
    assert newest(tmp_path / "run") == 4
    broken.write_bytes(whole)
    assert Run(tmp_path / "run", *settings, "resume=true").completes()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            "model.head.width=12",
            "of another shape: head.aspp.b0.0.weight (8, 256, 1, 1) for (12, 256, 1, 1)",
        ),
        ("schedule/optimizer=adamw", "the checkpoint is of another optimizer"),
        (
            "schedule.iterations=11",
            "resuming with changed settings: schedule.iterations=11 (was 10)",
        ),
    ],
)
def test_resuming_something_else_says_what_differs(setting, words, finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    run = Run(folder, setting, "resume=true")
    assert run.ends() == (0 if "iterations" in setting else 2)
    assert words in run.said
    assert "Traceback" not in run.said


def test_checkpoint_of_other_classes_is_refused():
    first, second = (
        {"classes": {"name": "x", "entries": [[0, name, [0, 0, 0], False, ""]]}, "settings": {}}
        for name in ("cat", "dog")
    )
    with pytest.raises(ValueError, match="the classes differ: the checkpoint has"):
        checkpoint.check_saved_settings(first, second)


def wait():
    time.sleep(60)


def test_a_second_process_at_a_run_is_refused(tmp_path):
    first = Run(tmp_path / "run", before=Act(STEP, 2, wait))
    first.waits_for((tmp_path / "run" / "run.lock").exists)
    second = Run(tmp_path / "run", "resume=auto")
    assert second.ends() == 2
    assert f"is in use by process {first.process.pid}" in second.said
    first.process.kill()


def test_deterministic_runs_are_equal_to_the_bit(tmp_path):
    both = [Run(tmp_path / name, "runtime.deterministic=true") for name in "ab"]
    assert_same_end(*(run.completes() for run in both))


@pytest.mark.gpu
def test_deterministic_runs_are_equal_to_the_bit_on_a_gpu(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    settings = [
        "runtime.deterministic=true",
        "device=cuda",
        "runtime.precision=bf16",
        "model.backbone.width=32",
    ]
    both = [Run(tmp_path / name, *settings) for name in "ab"]
    assert_same_end(*(run.completes() for run in both))
