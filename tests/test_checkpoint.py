"""Files of a run: whole or absent, kept as asked, read without running code."""

import pickle

import pytest
import torch

from segkit import checkpoint


def checkpoints(folder, **keeping):
    about = {"settings": {"seed": 1}, "classes": {}}
    return checkpoint.Checkpoints(folder, checkpoint.Keeping(**keeping), about)


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
    last = checkpoint.read(tmp_path / "last.pt")
    assert last["iteration"] == 3
    assert last["settings"] == {"seed": 1}
    assert torch.equal(last["model"]["weight"], torch.arange(4.0) + 3)


def test_due_by_iterations_and_by_the_clock(tmp_path, monkeypatch):
    book = checkpoints(tmp_path, every=10, minutes=5)
    assert [t for t in range(1, 31) if book.due(t)] == [10, 20, 30]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: book.saved_at + 301)
    assert book.due(7)


def test_a_damaged_newest_falls_back_loudly_to_the_one_before(tmp_path, caplog):
    book = checkpoints(tmp_path)
    book.save(state(1))
    book.save(state(2))
    newest = tmp_path / "iteration_0000002.pt"
    newest.write_bytes(newest.read_bytes()[:-200])
    assert checkpoint.newest(tmp_path)["iteration"] == 1
    assert "iteration_0000002.pt: damaged" in caplog.text
    (tmp_path / "iteration_0000001.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 2 checkpoints in .* can be read"):
        checkpoint.newest(tmp_path)


def test_a_run_is_never_overwritten_nor_resumed_from_nothing(tmp_path):
    folder = tmp_path / "runs" / "a"
    with pytest.raises(ValueError, match=r"no checkpoint in .* to resume"):
        checkpoint.open_run(folder, resume=True)
    assert not folder.exists()
    assert checkpoint.open_run(folder, resume="auto") is None
    checkpoints(folder).save(state(5))
    (folder / "best.pt.part").touch()
    with pytest.raises(
        ValueError, match="holds a run already; continue it with resume=true or choose another"
    ):
        checkpoint.open_run(folder, resume=False)
    assert checkpoint.open_run(folder, resume="auto")["iteration"] == 5
    assert not (folder / "best.pt.part").exists()


class Hostile:
    def __reduce__(self):
        return (print, ("executed",))


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"format": 1, "model": Hostile()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Hostile()))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(ValueError, match=f"{name}: refused, because it is damaged or asks to run code"):
            checkpoint.read(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


def test_what_is_not_a_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        checkpoint.read(tmp_path / "none.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(
        ValueError, match=r"not a checkpoint of segkit; weights of other projects load with model.weights"
    ):
        checkpoint.read(tmp_path / "other.pt")
