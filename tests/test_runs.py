"""Run folders: which are free, which hold a run, and what a start that failed leaves behind."""

import pytest

from segkit.runtime import run_folder


def claimed(folder, resume):
    with run_folder.lock_run_folder(folder, resume=resume):
        return sorted(file.name for file in folder.iterdir())


def test_what_a_failed_start_left_is_no_run_and_is_begun_anew(tmp_path, caplog):
    folder = tmp_path / "t1"
    folder.mkdir()
    for name in ("train.log", "events.out.tfevents.1.host", "run.lock", "run.owner", "best.pt.1.part"):
        (folder / name).touch()
    for resume in (False, "auto"):
        assert "run.lock" in claimed(folder, resume)
        assert "an earlier start left no checkpoint; starting anew" in caplog.text
    assert sorted(file.name for file in folder.iterdir()) == ["events.out.tfevents.1.host", "train.log"]
    with pytest.raises(
        ValueError, match=r"has no checkpoint to resume from\. Start the run with resume=false"
    ):
        claimed(folder, True)


@pytest.mark.parametrize("name", ["iteration_0000001.pt", "best.pt", "last.pt"])
def test_a_folder_with_weights_is_a_run(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"has a run already. Continue it with resume=true, or choose anoth"):
        claimed(tmp_path, resume=False)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ValueError, match=r"has other files \(holiday.jpg\) and no run\. Choose another"):
        claimed(tmp_path, resume=False)
    assert [file.name for file in tmp_path.iterdir()] == ["holiday.jpg"]


def test_nothing_is_left_of_a_start_that_came_to_nothing(tmp_path):
    (tmp_path / "mine").mkdir()
    assert claimed(tmp_path / "mine" / "runs" / "deep" / "a", resume=False) == ["run.lock", "run.owner"]
    assert not list((tmp_path / "mine").iterdir())


def test_settings_that_are_not_checked_yet_go_on_with_no_run_by_mistake(tmp_path):
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
