"""One process at a time is at a run folder; the dead do not keep it."""

import json
import multiprocessing
import os
import socket
import threading
import time

import pytest

from segkit.system import lock

fork = multiprocessing.get_context("forkserver")


def hold(folder, ready, leave):
    with lock.held(folder):
        ready.set()
        leave.wait(60)


@pytest.fixture
def owner(tmp_path):
    ready, leave = fork.Event(), fork.Event()
    process = fork.Process(target=hold, args=(tmp_path, ready, leave))
    process.start()
    assert ready.wait(60)
    yield process, leave
    process.kill()
    process.join()


@pytest.mark.medium
def test_a_folder_in_use_is_refused_naming_its_owner_and_free_afterwards(owner, tmp_path):
    process, leave = owner
    words = rf"in use by process {process.pid} on {socket.gethostname()}, since .* sign of life \d+ s ago"
    with pytest.raises(ValueError, match=words), lock.held(tmp_path):
        pass
    leave.set()
    process.join()
    with lock.held(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] != process.pid
    assert not list(tmp_path.iterdir())


@pytest.mark.medium
def test_the_lock_of_a_killed_process_is_taken_over_and_said(owner, tmp_path, caplog):
    process, _ = owner
    process.kill()
    process.join()
    assert (tmp_path / lock.NAME).exists()
    with lock.held(tmp_path):
        assert f"process {process.pid} on {socket.gethostname()}" in caplog.text
        assert "gone without a farewell; taking its lock over" in caplog.text


def elsewhere(folder):
    """What an owner on another machine leaves, as a file server without locks shows it."""
    path = folder / lock.NAME
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "yesterday"}))
    return path


@pytest.mark.medium
def test_an_owner_on_another_machine_lives_while_its_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 2.0)
    path, done = elsewhere(tmp_path), threading.Event()
    monkeypatch.setattr(lock, "BEAT", 0.1)
    heart = threading.Thread(target=lock._beat, args=(path, done))
    heart.start()
    with pytest.raises(ValueError, match="in use by process 1 on elsewhere, since yesterday"):
        lock._acquired(path)
    done.set()
    heart.join()
    began = time.monotonic()
    with lock.held(tmp_path):
        assert time.monotonic() - began >= 2.0


def test_a_lock_that_nobody_signed_is_free(tmp_path):
    (tmp_path / lock.NAME).write_text('{"pid": 1')
    with lock.held(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
