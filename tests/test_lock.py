"""One process at a time uses a run folder."""

import multiprocessing
import os
import socket

import pytest

from segkit.runtime import run_folder

forkserver = multiprocessing.get_context("forkserver")


def hold(folder, ready, leave):
    with run_folder.lock_run_folder(folder, resume="auto"):
        ready.set()
        leave.wait(60)


@pytest.fixture
def owner(tmp_path):
    ready, leave = forkserver.Event(), forkserver.Event()
    process = forkserver.Process(target=hold, args=(tmp_path / "run", ready, leave))
    process.start()
    assert ready.wait(60)
    yield process, leave
    process.kill()
    process.join()


@pytest.mark.medium
def test_a_locked_folder_is_refused_with_its_owner_and_free_afterwards(owner, tmp_path):
    process, leave = owner
    message = (
        rf"run: is in use by process {process.pid} on {socket.gethostname()} since \d{{4}}-.*\. Wait for it"
    )
    with (
        pytest.raises(ValueError, match=message),
        run_folder.lock_run_folder(tmp_path / "run", resume="auto"),
    ):
        pass
    leave.set()
    process.join()
    with run_folder.lock_run_folder(tmp_path / "run", resume="auto"):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / run_folder.OWNER).read_text()
    assert not list(tmp_path.iterdir())


@pytest.mark.medium
def test_the_lock_of_a_killed_process_is_free(owner, tmp_path):
    process, _ = owner
    process.kill()
    process.join()
    assert {file.name for file in (tmp_path / "run").iterdir()} == {run_folder.LOCK, run_folder.OWNER}
    with run_folder.lock_run_folder(tmp_path / "run", resume=False):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / run_folder.OWNER).read_text()


def test_other_ranks_take_no_lock(owner, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with run_folder.lock_run_folder(tmp_path / "run", resume="auto"):
        pass
    assert (tmp_path / "run" / run_folder.LOCK).exists()


@pytest.mark.parametrize("name", ["run.lock", "run.owner", "train.log", "curves.jsonl", "a.part"])
def test_symbolic_links_in_a_run_folder_are_not_written_through(name, tmp_path):
    folder, victim = tmp_path / "run", tmp_path / "victim"
    folder.mkdir()
    (folder / "iteration_0000001.pt").touch()
    victim.write_text("precious")
    (folder / name).symlink_to(victim)
    message = rf"{name}: is a symbolic link, .* Remove it"
    with pytest.raises(ValueError, match=message), run_folder.lock_run_folder(folder, resume="auto"):
        pass
    assert victim.read_text() == "precious"
    assert {file.name for file in folder.iterdir()} == {"iteration_0000001.pt", name}


def test_the_lock_keeps_the_content_of_a_hard_linked_file(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (run_folder.LOCK, run_folder.OWNER):
        (tmp_path / name).hardlink_to(victim)
    with run_folder.run_lock(tmp_path):
        assert victim.read_text() == "precious"
    assert victim.read_text() == "precious"


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def deny(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run_folder.FileLock, "acquire", deny)
    message = r"run: cannot be written \(Permission denied\)\. .* run_dir="
    with pytest.raises(OSError, match=message), run_folder.lock_run_folder(tmp_path / "run", resume=False):
        pass
    assert not (tmp_path / "run").exists()
