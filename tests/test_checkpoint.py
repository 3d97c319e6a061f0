"""Checkpoints: when they are written, how many are kept, which one is resumed from."""

import pytest
import torch

from segkit import checkpoint
from segkit.runtime import files, run_folder


def checkpoints(folder, **config):
    about = {"settings": {"seed": 1}, "classes": {}}
    return checkpoint.Checkpoints(folder, checkpoint.CheckpointConfig(**config), about)


def state(iteration):
    return {"iteration": iteration, "model": {"weight": torch.arange(4.0) + iteration}}


def test_newest_checkpoints_are_kept_and_last_is_the_newest(tmp_path):
    saver = checkpoints(tmp_path, keep=2)
    for iteration in (9_999_998, 9_999_999, 10_000_000, 10_000_001):  # sorted by number
        saver.save(state(iteration))
    names = ["iteration_10000001.pt", "iteration_10000000.pt"]
    assert [file.name for file in run_folder.list_checkpoints(tmp_path)] == names
    assert sorted(file.name for file in tmp_path.iterdir()) == [*sorted(names), "last.pt"]
    assert checkpoint.find_newest(tmp_path) == tmp_path / names[0]
    last = checkpoint.read_checkpoint(tmp_path / "last.pt")
    assert (last["iteration"], last["settings"]) == (10_000_001, {"seed": 1})
    assert torch.equal(last["model"]["weight"], torch.arange(4.0) + 10_000_001)


def test_checkpoint_is_due_by_iterations_and_by_time(tmp_path, monkeypatch):
    saver = checkpoints(tmp_path, every=10, minutes=5)
    assert saver.is_due(10)
    assert saver.is_due(12)  # nothing could be saved at 10
    saver.save(state(12))
    assert [t for t in range(13, 21) if saver.is_due(t)] == [20]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: saver.saved_at + 301)
    assert saver.is_due(7)


def test_failed_copy_to_last_is_reported(tmp_path, monkeypatch):
    def refuse_links(*_):
        raise OSError(95, "Operation not supported")

    def fill_disk(_, copy):
        copy.write(b"a part of the checkpoint")
        copy.flush()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.Path, "hardlink_to", refuse_links)  # as on some network file systems
    monkeypatch.setattr(checkpoint.shutil, "copyfileobj", fill_disk)
    with pytest.raises(OSError, match=r"last.pt: could not be written \(No space left on device\)"):
        checkpoints(tmp_path).save(state(1))
    assert [file.name for file in tmp_path.iterdir()] == ["iteration_0000001.pt"]


def test_damaged_later_checkpoints_are_removed(tmp_path):
    (tmp_path / "iteration_0000200.pt").write_bytes(b"damaged")
    saver = checkpoints(tmp_path, keep=1)
    saver.save(state(100))
    assert [file.name for file in run_folder.list_checkpoints(tmp_path)] == ["iteration_0000100.pt"]


def test_damaged_newest_checkpoint_falls_back_with_a_warning(tmp_path, caplog):
    saver = checkpoints(tmp_path)
    saver.save(state(1))
    saver.save(state(2))
    newest = tmp_path / "iteration_0000002.pt"
    newest.write_bytes(newest.read_bytes()[:-200])
    assert checkpoint.find_newest(tmp_path) == tmp_path / "iteration_0000001.pt"
    assert "iteration_0000002.pt: damaged" in caplog.text
    (tmp_path / "iteration_0000001.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of its 2 checkpoints can be read"):
        checkpoint.find_newest(tmp_path)


def test_resume_auto_starts_or_resumes(tmp_path):
    def load_newest(folder):
        with run_folder.lock_run_folder(folder, resume="auto"):
            return checkpoints(folder).load_newest()

    folder = tmp_path / "runs" / "a"
    assert load_newest(folder) is None
    assert not folder.parent.exists()  # nothing came of it
    folder.mkdir(parents=True)
    checkpoints(folder).save(state(5))
    (folder / "best.pt.part").touch()
    assert load_newest(folder)["iteration"] == 5
    assert not (folder / "best.pt.part").exists()


def test_state_of_another_model_is_refused_with_differences():
    own = {"a": torch.zeros(2), "b": torch.zeros(150, 8), "c": torch.zeros(1)}
    found = {"b": torch.zeros(19, 8), "c": torch.zeros(1), "d": torch.zeros(1)}
    words = r"another model: 1 missing in the file: a.* 1 not in the model: d.* b \(19, 8\) for \(150, 8\)"
    with pytest.raises(ValueError, match=words):
        files.check_state_matches(own, found, "model")
    with pytest.raises(ValueError, match=r"100 missing in the file: 0, 1, 2, \.\.\."):
        files.check_state_matches({str(i): own["a"] for i in range(100)}, {}, "model")


def test_resume_with_another_seed_is_refused(tmp_path):
    checkpoints(tmp_path).save(state(1))
    other = checkpoints(tmp_path)
    other.about["settings"] = {"seed": 2}
    with pytest.raises(ValueError, match=r"seed=2: the run uses seed=1, .* Leave seed out"):
        other.load_newest()


def test_read_settings_uses_the_newest_readable_checkpoint(tmp_path):
    assert checkpoint.read_settings(tmp_path) is None
    saver = checkpoints(tmp_path)
    saver.save(state(1))
    saver.about["settings"] = {"seed": 2}
    saver.save({"iteration": 2, "model": {"weight": torch.zeros(1 << 20)}})
    (tmp_path / "iteration_0000003.pt").write_bytes(b"")
    assert checkpoint.read_settings(tmp_path) == {"seed": 2}
    stored = checkpoint.read_checkpoint(tmp_path / "iteration_0000002.pt", mapped=True)
    assert not stored["model"]["weight"].any()
