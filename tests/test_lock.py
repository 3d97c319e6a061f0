"""One process at a time uses a run folder."""

import multiprocessing
import os
import socket

import pytest

from segkit.runtime import run_folder

forkserver = multiprocessing.get_context("forkserver")


def hold_lock(folder, ready, release):
    with run_folder.lock_run_folder(folder, resume="auto"):
        ready.set()
        release.wait(60)


@pytest.fixture
def owner(tmp_path):
    ready, release = forkserver.Event(), forkserver.Event()
    process = forkserver.Process(target=hold_lock, args=(tmp_path / "run", ready, release))
    process.start()
    assert ready.wait(60)
    yield process, release
    process.kill()
    process.join()


@pytest.mark.medium
def test_locked_folder_is_refused_until_it_is_released(owner, tmp_path):
    process, release = owner
    message = (
        rf"run: is in use by process {process.pid} on {socket.gethostname()} since \d{{4}}-.*\. Wait for it"
    )
    with (
        pytest.raises(ValueError, match=message),
        run_folder.lock_run_folder(tmp_path / "run", resume="auto"),
    ):
        pass
    release.set()
    process.join()
    with run_folder.lock_run_folder(tmp_path / "run", resume="auto"):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / run_folder.OWNER).read_text()
    assert not list(tmp_path.iterdir())


@pytest.mark.medium
def test_lock_of_a_killed_process_is_free(owner, tmp_path):
    process, _ = owner
    process.kill()
    process.join()
    assert {file.name for file in (tmp_path / "run").iterdir()} == {run_folder.LOCK, run_folder.OWNER}
    with run_folder.lock_run_folder(tmp_path / "run", resume=False):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / run_folder.OWNER).read_text()


@pytest.mark.medium
def test_other_ranks_do_not_lock(owner, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with run_folder.lock_run_folder(tmp_path / "run", resume="auto"):
        pass
    assert (tmp_path / "run" / run_folder.LOCK).exists()


@pytest.mark.parametrize("name", ["run.lock", "train.log"])
def test_symbolic_links_in_a_run_folder_are_refused(name, tmp_path):
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


def test_lock_does_not_change_hard_linked_files(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (run_folder.LOCK, run_folder.OWNER):
        (tmp_path / name).hardlink_to(victim)
    with run_folder.run_lock(tmp_path):
        assert victim.read_text() == "precious"
    assert victim.read_text() == "precious"
