"""Run folders: free ones, existing runs, and leftovers of a failed start."""

import pytest

from segkit.runtime import run_folder


def list_locked_folder(folder, resume):
    with run_folder.lock_run_folder(folder, resume=resume):
        return sorted(file.name for file in folder.iterdir())


def test_leftovers_of_a_failed_start_are_no_run(tmp_path, caplog):
    folder = tmp_path / "t1"
    folder.mkdir()
    for name in ("train.log", "events.out.tfevents.1.host", "run.lock", "run.owner", "best.pt.1.part"):
        (folder / name).touch()
    for resume in (False, "auto"):
        assert "run.lock" in list_locked_folder(folder, resume)
        assert "an earlier start left no checkpoint; starting anew" in caplog.text
    assert sorted(file.name for file in folder.iterdir()) == ["events.out.tfevents.1.host", "train.log"]
    with pytest.raises(ValueError, match=r"no checkpoint to resume from\. Start the run with resume=false"):
        list_locked_folder(folder, True)


@pytest.mark.parametrize("name", ["iteration_0000001.pt", "best.pt"])
def test_folder_with_weights_is_a_run(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"has a run already. Continue it with resume=true, or choose anoth"):
        list_locked_folder(tmp_path, resume=False)


def test_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ValueError, match=r"has other files \(holiday.jpg\) and no run\. Choose another"):
        list_locked_folder(tmp_path, resume=False)
    assert [file.name for file in tmp_path.iterdir()] == ["holiday.jpg"]


def test_empty_run_folder_is_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    assert list_locked_folder(tmp_path / "mine" / "runs" / "deep" / "a", resume=False) == [
        "run.lock",
        "run.owner",
    ]
    assert not list((tmp_path / "mine").iterdir())


def test_find_run_to_resume_accepts_unchecked_settings(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "iteration_0000001.pt").touch()
    here = {"run_dir": str(tmp_path), "run_name": "a"}
    assert run_folder.find_run_to_resume({**here, "resume": True}) == tmp_path / "a"
    assert run_folder.find_run_to_resume({**here, "resume": "auto"}) == tmp_path / "a"
    for other in (
        {"resume": False},
        {},
        {"resume": True, "run_name": None},
        {"resume": "auto", "run_dir": 1},
    ):
        assert run_folder.find_run_to_resume({**here, **other}) is None
