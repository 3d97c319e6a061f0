"""Files of a run: whole or absent, kept as asked, read without running code."""

import pickle

import pytest
import torch

from segkit import checkpoint
from segkit.runtime import files, run_folder


def checkpoints(folder, **keeping):
    about = {"settings": {"seed": 1}, "classes": {}}
    return checkpoint.Checkpoints(folder, checkpoint.CheckpointConfig(**keeping), about)


def state(iteration):
    return {"iteration": iteration, "model": {"weight": torch.arange(4.0) + iteration}}


def test_the_last_few_are_kept_and_last_is_the_newest(tmp_path):
    book = checkpoints(tmp_path, keep=2)
    for iteration in (1, 2, 3):
        book.save(state(iteration))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "iteration_0000002.pt",
        "iteration_0000003.pt",
        "last.pt",
    ]
    last = checkpoint.read_checkpoint(tmp_path / "last.pt")
    assert last["iteration"] == 3
    assert last["settings"] == {"seed": 1}
    assert torch.equal(last["model"]["weight"], torch.arange(4.0) + 3)


def test_due_by_iterations_and_by_the_clock(tmp_path, monkeypatch):
    book = checkpoints(tmp_path, every=10, minutes=5)
    assert book.is_due(10)
    assert book.is_due(12)  # nothing could be saved at 10
    book.save(state(12))
    assert [t for t in range(13, 21) if book.is_due(t)] == [20]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: book.saved_at + 301)
    assert book.is_due(7)


def test_a_failed_copy_of_the_newest_is_reported(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.Path, "hardlink_to", fail)  # as on some network file systems
    monkeypatch.setattr(checkpoint.shutil, "copyfile", fail)
    with pytest.raises(
        OSError, match=r"last.pt: could not be written \(No space left on device\)\. Make room"
    ):
        checkpoints(tmp_path).save(state(1))


def test_checkpoints_are_sorted_by_number(tmp_path):
    book = checkpoints(tmp_path, keep=2)
    for iteration in (9_999_998, 9_999_999, 10_000_000, 10_000_001):
        book.save(state(iteration))
    names = [file.name for file in run_folder.list_checkpoints(tmp_path)]
    assert names == ["iteration_10000001.pt", "iteration_10000000.pt"]
    assert checkpoint.find_newest(tmp_path) == tmp_path / names[0]


def test_damaged_later_checkpoints_do_not_displace_good_ones(tmp_path):
    (tmp_path / "iteration_0000200.pt").write_bytes(b"damaged")
    book = checkpoints(tmp_path, keep=1)
    book.save(state(100))
    assert [file.name for file in run_folder.list_checkpoints(tmp_path)] == ["iteration_0000100.pt"]


def test_a_damaged_newest_falls_back_loudly_to_the_one_before(tmp_path, caplog):
    book = checkpoints(tmp_path)
    book.save(state(1))
    book.save(state(2))
    newest = tmp_path / "iteration_0000002.pt"
    newest.write_bytes(newest.read_bytes()[:-200])
    assert checkpoint.find_newest(tmp_path) == tmp_path / "iteration_0000001.pt"
    assert "iteration_0000002.pt: damaged" in caplog.text
    (tmp_path / "iteration_0000001.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of its 2 checkpoints can be read"):
        checkpoint.find_newest(tmp_path)


def opened(folder, resume):
    with run_folder.lock_run_folder(folder, resume=resume):
        return checkpoints(folder).load_newest()


def test_a_run_is_never_overwritten_nor_resumed_from_nothing(tmp_path):
    folder = tmp_path / "runs" / "a"
    with pytest.raises(ValueError, match=r"has no checkpoint to resume from"):
        opened(folder, resume=True)
    assert not folder.exists()
    assert opened(folder, resume="auto") is None
    assert not folder.parent.exists()  # nothing came of it
    folder.mkdir(parents=True)
    checkpoints(folder).save(state(5))
    (folder / "best.pt.part").touch()
    with pytest.raises(
        ValueError, match=r"has a run already. Continue it with resume=true, or choose another"
    ):
        opened(folder, resume=False)
    assert opened(folder, resume="auto")["iteration"] == 5
    assert not (folder / "best.pt.part").exists()


def test_a_state_of_another_model_is_refused_with_what_differs():
    own = {"a": torch.zeros(2), "b": torch.zeros(150, 8), "c": torch.zeros(1)}
    found = {"b": torch.zeros(19, 8), "c": torch.zeros(1), "d": torch.zeros(1)}
    with pytest.raises(ValueError, match="the checkpoint is of another model") as refused:
        files.check_state_matches(own, found, "model")
    message = str(refused.value)
    for words in (
        "1 missing in the file: a",
        "1 not in the model: d",
        "1 of another shape: b (19, 8) for (150, 8)",
        "model.weights=FILE",
    ):
        assert words in message
    with pytest.raises(ValueError, match=r"100 missing in the file: 0, 1, 2, \.\.\."):
        files.check_state_matches({str(i): own["a"] for i in range(100)}, {}, "model")


def test_another_seed_is_refused_on_resume(tmp_path):
    checkpoints(tmp_path).save(state(1))
    other = checkpoints(tmp_path)
    other.about["settings"] = {"seed": 2}
    with pytest.raises(
        ValueError, match=r"seed=2: the run uses seed=1 .* Leave seed out, or start a new run"
    ):
        other.load_newest()


class Hostile:
    def __reduce__(self):
        return (print, ("executed",))


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"format": 1, "model": Hostile()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Hostile()))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(ValueError, match=f"{name}: refused, because it is damaged or asks to run code"):
            checkpoint.read_checkpoint(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


def test_what_is_not_a_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        checkpoint.read_checkpoint(tmp_path / "none.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(
        ValueError, match=r"not a checkpoint of segkit; weights of other projects load with model.weights"
    ):
        checkpoint.read_checkpoint(tmp_path / "other.pt")


def test_the_settings_of_a_run_are_those_of_its_newest_checkpoint_that_can_be_read(tmp_path):
    assert checkpoint.read_settings(tmp_path) is None
    table = {"settings": {"seed": 1}, "classes": {}}
    checkpoint.write_checkpoint(tmp_path / "iteration_0000001.pt", {**table, **state(1)})
    big = {"iteration": 2, "model": {"weight": torch.zeros(1 << 24)}}  # 64 MiB
    checkpoint.write_checkpoint(tmp_path / "iteration_0000002.pt", {**table, **big, "settings": {"seed": 2}})
    (tmp_path / "iteration_0000003.pt").write_bytes(b"")
    assert checkpoint.read_settings(tmp_path) == {"seed": 2}
    assert not checkpoint.read_checkpoint(tmp_path / "iteration_0000002.pt", mapped=True)["model"][
        "weight"
    ].any()
