"""Full disks, unwritable folders, deleted data: a run ends with a message and loses nothing."""

import functools
import os
import resource
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from conftest import write_folder
from runs import CallBefore, KillAt, Run, assert_same_end, newest_iteration
from segkit import checkpoint
from segkit.runtime import files, run_folder

STEP = "segkit.training.train_step"


@pytest.fixture(scope="module")
def complete_run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("finished") / "run").complete()


def quota():
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # bytes of one file


@pytest.mark.medium
def test_full_disk_leaves_the_checkpoint_before_intact(complete_run, tmp_path):
    folder = tmp_path / "run"
    write = "segkit.checkpoint.write_checkpoint"
    run = Run(folder, before=CallBefore(write, 5, quota))  # at 3, 4, best, 4, at 6
    assert run.exit_status() == 2
    assert "iteration_0000006.pt: could not be written" in run.output
    assert "Make room in" in run.output
    assert "resume=true from the checkpoint before, which is intact" in run.output
    assert "Traceback" not in run.output
    assert newest_iteration(folder) == checkpoint.read_checkpoint(folder / "last.pt")["iteration"] == 4
    assert not list(folder.glob("*.part"))

    newer = KillAt(STEP, 4)  # resumed, killed after the checkpoint at 6, and that one is then damaged
    assert Run(folder, "resume=true", before=newer).exit_status() == -signal.SIGKILL
    file = folder / "iteration_0000006.pt"
    file.write_bytes(file.read_bytes()[:-1000])
    resumed = Run(folder, "resume=true")
    assert_same_end(complete_run, resumed.complete())
    assert "iteration_0000006.pt: damaged" in resumed.output
    assert "trying the checkpoint before it" in resumed.output


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


def test_unwritable_run_folder_is_named(read_only):
    with (
        pytest.raises(OSError, match=r"runs/a: cannot be written \(Permission denied\)\. Choose .* run_dir="),
        run_folder.lock_run_folder(read_only / "a", resume="auto"),
    ):
        pass


def test_unwritable_output_folder_is_named(read_only):
    for place in (read_only, read_only / "out"):
        with pytest.raises(OSError, match=rf"output={place}: cannot be written .* Choose another output="):
            files.make_output_folder(place)


def own_data(root):
    write_folder(root, [f"{split}/{i}" for split in ("train", "val") for i in range(4)], "ab", (32, 32))
    return ["data=folder", f"data.root={root}", "~data.size", "~data.train_scenes", "~data.val_scenes"]


@pytest.mark.medium
@pytest.mark.parametrize("workers", [0, 2])
def test_deleted_data_end_the_run_with_a_message(workers, tmp_path):
    data = own_data(tmp_path / "data")
    settings = [*data, f"loader.workers={workers}", "schedule.iterations=100", "sizes.crop=32"]
    remove = functools.partial(shutil.rmtree, tmp_path / "data")
    run = Run(tmp_path / "run", *settings, before=CallBefore(STEP, 5, remove))
    assert run.exit_status() == 2
    assert "No such file or directory; is data.root complete?" in run.output
    assert str(tmp_path / "data") in run.output
    assert "Traceback" not in run.output
    assert newest_iteration(tmp_path / "run") in (3, 4, 6, 8, 9)
    checkpoint.read_checkpoint(tmp_path / "run" / "last.pt")


@pytest.mark.medium
def test_broken_validation_image_costs_no_iteration(tmp_path):
    data = own_data(tmp_path / "data")
    broken = tmp_path / "data" / "images" / "val" / "0.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:100])
    settings = [*data, "sizes.crop=32", "schedule.iterations=5"]
    run = Run(tmp_path / "run", *settings)
    assert run.exit_status() == 2
    assert str(broken) in run.output
    assert newest_iteration(tmp_path / "run") == 4
    broken.write_bytes(content)
    assert Run(tmp_path / "run", *settings, "resume=true").complete()


@pytest.mark.medium
def test_resume_with_settings_that_do_not_fit_is_refused(complete_run, tmp_path):
    folder = Path(shutil.copytree(complete_run, tmp_path / "run"))
    run = Run(folder, "schedule/optimizer=adamw", "resume=true")
    assert run.exit_status() == 2
    assert "the checkpoint is of another optimizer" in run.output
    assert "Traceback" not in run.output
