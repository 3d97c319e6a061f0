"""A resumed run keeps its settings, and the command line overrides them."""

import pytest

from runs import SMALL, Run
from segkit import checkpoint
from segkit.config.compose import compose_settings
from segkit.config.dotted import value_of
from segkit.types import IMAGENET_MEAN, IMAGENET_STD

BEGUN = [*SMALL, "run_name=a", "schedule.lr=0.07", "schedule/optimizer=adamw", "seed=5", "sizes.crop=64"]


def resume(*typed, before=None):
    """Compose the settings of a resumed run."""
    before = compose_settings("train", BEGUN) if before is None else before
    return compose_settings("train", ["run_name=a", "resume=true", *typed], stored=lambda _: before)


@pytest.mark.medium
def test_resuming_without_overrides_changes_nothing():
    assert checkpoint.list_changed_settings(compose_settings("train", BEGUN), resume()) == []


@pytest.mark.medium
@pytest.mark.parametrize(
    ("typed", "differences"),
    [
        (
            ["schedule.lr=0.01"],
            ["schedule.lr=0.01 (was 0.07)"],
        ),  # the value of the yaml, and set all the same
        (["sizes.base=99"], ["sizes.base=99 (was 128)", "augment.base_size=99 (was 128)"]),
        (["augment.base_size=70"], ["augment.base_size=70 (was 128)"]),
        (["runtime=gpu"], ["runtime.precision=bf16 (was float32)"]),
        (["device=cpu", "summary=true", "model.backbone.width=8"], []),
    ],
)
def test_overrides_win_on_resume(typed, differences):
    found = checkpoint.list_changed_settings(compose_settings("train", BEGUN), resume(*typed))
    assert set(differences) <= set(found)
    assert len(found) == len(differences) or typed == ["runtime=gpu"]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("typed", "replaced"),
    [
        ("model=fcn_resnest50", ["model"]),
        ("schedule/optimizer=sgd", ["schedule.optimizer"]),
        ("data=camvid", ["data", "sizes", "augment"]),
    ],
)
def test_chosen_group_replaces_its_sections_on_resume(typed, replaced):
    found, begun = resume(typed), compose_settings("train", BEGUN)
    fresh = compose_settings("train", ["run_name=a", typed])
    for key in ("model", "data", "sizes", "augment", "schedule.optimizer", "schedule.lr_schedule"):
        assert value_of(found, key) == value_of(fresh if key in replaced else begun, key), key


@pytest.mark.medium
def test_new_keys_get_defaults_and_removed_keys_are_missing():
    before = compose_settings("train", BEGUN)
    del before["evaluation"]["every"], before["profile"]
    assert resume(before=before)["evaluation"]["every"] == 1
    with pytest.raises(ValueError, match="seed is missing"):
        resume("~seed")


def test_stored_settings_are_checked_and_refer_to_nothing(monkeypatch):
    monkeypatch.setenv("SECRET", "3")
    before = compose_settings("train", BEGUN)
    with pytest.raises(ValueError, match=r"seed=\$\{oc.env:SECRET\}: stored settings must not refer"):
        resume(before={**before, "seed": "${oc.env:SECRET}"})
    with pytest.raises(ValueError, match="model=7: this is a section"):
        resume(before={**before, "model": 7})


@pytest.mark.medium
def test_resumed_command_keeps_its_network_and_lists_changes(tmp_path):
    folder = tmp_path / "a"
    own = ["model.head.width=12", "schedule.iterations=2", "schedule.ema=0.5", "evaluation.every=2"]
    Run(folder, *own).complete()
    first = checkpoint.read_checkpoint(folder / "last.pt")
    expected = compose_settings("train", [*SMALL, *own, f"run_dir={tmp_path}", "run_name=a"])
    expected["model"] |= {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}  # in place of null
    assert first["settings"] == expected
    run = Run(folder, "resume=true", small=[])
    run.complete()
    assert "changed settings" not in run.output
    run = Run(folder, "resume=auto", "schedule.iterations=3", small=[])
    run.complete()
    assert "resuming with changed settings: schedule.iterations=3 (was 2)\n" in run.output
    last = checkpoint.read_checkpoint(folder / "last.pt")
    assert last["iteration"] == 3
    assert {k: v.shape for k, v in last["model"].items()} == {k: v.shape for k, v in first["model"].items()}
    assert last["settings"]["evaluation"] == first["settings"]["evaluation"]
