"""A run goes on with the settings it had; what is typed lies over them."""

import pytest

from runs import SMALL, Run
from segkit import checkpoint
from segkit.config import resuming
from segkit.config.compose import Hooks, composed

BEGUN = [*SMALL, "run_name=a", "schedule.lr=0.07", "schedule/optimizer=adamw", "seed=5", "sizes.crop=64"]


def again(*typed, before=None):
    """What resuming with these arguments composes to."""
    before = composed("train", BEGUN) if before is None else before
    return composed("train", ["run_name=a", "resume=true", *typed], Hooks(resumed=lambda _: before))


@pytest.mark.medium
def test_nothing_typed_changes_nothing():
    assert checkpoint.list_changed_settings(composed("train", BEGUN), again()) == []


@pytest.mark.medium
@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["schedule.iterations=20"], ["schedule.iterations=20 (was 10)"]),
        (["schedule.lr=0.01"], ["schedule.lr=0.01 (was 0.07)"]),  # what the yaml says, and typed all the same
        (["seed=0"], ["seed=0 (was 5)"]),
        (["sizes.base=99"], ["sizes.base=99 (was 128)", "augment.base_size=99 (was 128)"]),
        (["augment.base_size=70"], ["augment.base_size=70 (was 128)"]),
        (["runtime=gpu"], ["runtime.precision=bf16 (was float32)"]),
        (["device=cpu", "summary=true"], []),
        (["model.backbone.width=8"], []),
    ],
)
def test_what_is_typed_wins_and_is_told(typed, told):
    found = checkpoint.list_changed_settings(composed("train", BEGUN), again(*typed))
    assert set(told) <= set(found)
    assert len(found) == len(told) or typed == ["runtime=gpu"]


@pytest.mark.medium
def test_a_group_that_is_typed_wins_whole():
    found = again("model=fcn_resnest50")
    assert found["model"] == composed("train", ["model=fcn_resnest50", "run_name=a"])["model"]
    assert found["schedule"] == composed("train", BEGUN)["schedule"]
    optimizer = again("schedule/optimizer=sgd")["schedule"]["optimizer"]
    assert optimizer == composed("train", ["run_name=a"])["schedule"]["optimizer"]


@pytest.mark.medium
def test_a_data_set_brings_its_sizes_and_whatever_refers_to_them():
    found = again("data=camvid")
    fresh = composed("train", ["data=camvid", "run_name=a"])
    assert found["data"] == fresh["data"]
    assert found["sizes"] == fresh["sizes"]
    assert found["augment"] == fresh["augment"]
    assert found["model"] == composed("train", BEGUN)["model"]


def test_an_experiment_that_is_typed_wins_with_all_it_says():
    found = again("experiment=demo")
    fresh = composed("train", ["experiment=demo", "run_name=a"])
    assert found["model"] == fresh["model"]
    assert found["schedule"]["iterations"] == 400
    assert found["seed"] == 5  # of which it says nothing


@pytest.mark.medium
def test_a_key_that_is_newer_than_the_run_is_filled_in_and_one_taken_out_is_missed():
    before = composed("train", BEGUN)
    del before["evaluation"]["every"], before["profile"]
    assert again(before=before)["evaluation"]["every"] == 1
    with pytest.raises(ValueError, match="seed is missing"):
        again("~seed")


def test_settings_of_a_checkpoint_are_checked_and_nothing_in_them_is_looked_up(monkeypatch):
    monkeypatch.setenv("SECRET", "3")
    before = composed("train", BEGUN)
    with pytest.raises(ValueError, match=r"seed=\$\{oc.env:SECRET\}: must be an integer"):
        again(before={**before, "seed": "${oc.env:SECRET}"})
    with pytest.raises(ValueError, match="model=7: this is a group"):
        again(before={**before, "model": 7})


def test_a_path_through_what_is_no_group_makes_one():
    assert resuming.merge_on_resume({"a": 1}, {"a": {"b": 2}}, ["a.b"])["a"] == {"b": 2}


def test_the_command_goes_on_with_the_network_it_had_and_names_what_is_other(tmp_path):
    folder = tmp_path / "a"
    own = ["model.head.width=12", "schedule.iterations=2", "schedule.ema=0.5", "evaluation.every=2"]
    Run(folder, *own).completes()
    first = checkpoint.read_checkpoint(folder / "last.pt")
    assert first["settings"] == composed("train", [*SMALL, *own, f"run_dir={tmp_path}", "run_name=a"])
    run = Run(folder, "resume=true", small=[])
    run.completes()
    assert "other settings" not in run.said
    run = Run(folder, "resume=auto", "schedule.iterations=3", small=[])
    run.completes()
    assert "resuming with changed settings: schedule.iterations=3 (was 2)\n" in run.said
    last = checkpoint.read_checkpoint(folder / "last.pt")
    assert last["iteration"] == 3
    assert {k: v.shape for k, v in last["model"].items()} == {k: v.shape for k, v in first["model"].items()}
    assert last["settings"]["evaluation"] == first["settings"]["evaluation"]
