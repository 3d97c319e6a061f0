"""No file that a user was given can run code, name code, or write where it should not.

Weights, archives, downloads and the report have their tests with the modules they belong to.
"""

import pickle

import numpy as np
import pytest
import torch

import segkit
from runs import SMALL
from segkit import components
from segkit.compose import composed
from segkit.data.labels import LabelTable, built_in
from segkit.data.pairs import kept
from segkit.models import segmenter


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def trap(tmp_path):
    yield tmp_path / "executed"
    assert not (tmp_path / "executed").exists()


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Hostile(tmp_path / "executed"))).close()
    assert (tmp_path / "executed").exists()


def test_objects_in_a_cached_image_are_not_unpickled_and_the_copy_is_made_anew(tmp_path, trap, caplog):
    source = tmp_path / "a.png"
    source.write_bytes(b"image")
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    kept(source, tmp_path / "cache", "", lambda: pixels)
    (copy,) = (tmp_path / "cache").rglob("*.npy")
    hostile = np.empty(1, object)
    hostile[0] = Hostile(trap)
    for content in (
        lambda: np.save(copy, hostile, allow_pickle=True),
        lambda: copy.write_bytes(b"\x93NUMPY"),
    ):
        content()
        assert np.array_equal(kept(source, tmp_path / "cache", "", lambda: pixels), pixels)
        assert "a damaged copy of" in caplog.text


def test_code_in_a_checkpoint_does_not_run(tmp_path, trap):
    torch.save({"format": 1, "settings": Hostile(trap)}, tmp_path / "best.pt")
    with pytest.raises(ValueError, match="asks to run code"):
        segkit.load(tmp_path / "best.pt")


@pytest.mark.parametrize("name", ["os", "../../setup", "segkit.compose", "_family", None, ["resnest"], ""])
def test_settings_in_a_checkpoint_reach_only_components(name, tmp_path):
    network = composed("train", [*SMALL, "run_name=a"])["model"]
    model = segmenter.build(2, **network)
    table = {"name": "two", "entries": [[i, str(i), [0, 0, i], False, ""] for i in range(2)]}
    content = {"format": 1, "iteration": 1, "classes": table, "model": model.state_dict()}
    hostile = {**network, "backbone": {**network["backbone"], "name": name}}
    torch.save({**content, "settings": {"model": hostile}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"model.backbone.name=.*there are: .*resnest"):
        segkit.load(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"no .* in segkit/models/backbones"):
        components.build("models.backbones", {"name": name})


def test_settings_in_a_checkpoint_are_checked_like_typed_ones(tmp_path):
    network = composed("train", [*SMALL, "run_name=a"])["model"]
    content = {"format": 1, "iteration": 1, "classes": built_in("shapes").to_plain(), "model": {}}
    torch.save({**content, "settings": {"model": {**network, "evil": 1}}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"model.evil=1: there is no such setting"):
        segkit.load(tmp_path / "a.pt")
    torch.save({**content, "settings": {}}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"model\.backbone is missing; .*\nmodel\.head is missing"):
        segkit.load(tmp_path / "b.pt")


@pytest.mark.parametrize(
    "entries", [[[0, "a"]], [["0", "a", [0, 0, 0], False, ""]], None, [[0, "a", [0], False, ""]]]
)
def test_a_damaged_class_table_in_a_checkpoint_is_an_error(entries):
    with pytest.raises(ValueError, match="the class table of a checkpoint is damaged"):
        LabelTable.from_plain({"name": "a", "entries": entries})
