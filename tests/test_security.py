"""No file that a user was given can run code, name code, or write where it should not.

Weights, archives, downloads, exported files and the report have their tests with the modules they belong to.
A ``.pt2`` file is the exception: it can run code, and is opened only if trusted (tests/test_export.py).
"""

import copy
import io
import itertools
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

import segkit
from runs import SMALL
from segkit import checkpoint
from segkit.config import registry
from segkit.config.compose import compose_settings
from segkit.data.label_map import LabelMap
from segkit.data.pairs import load_cached
from segkit.models import segmenter, weights
from segkit.runtime import files


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


def test_pickle_in_a_cached_image_is_not_run_but_replaced(tmp_path, trap, caplog):
    source = tmp_path / "a.png"
    source.write_bytes(b"image")
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    load_cached(source, tmp_path / "cache", "", lambda: pixels)
    (copy,) = (tmp_path / "cache").rglob("*.npy")
    hostile = np.empty(1, object)
    hostile[0] = Hostile(trap)
    np.save(tmp_path / "hostile.npy", hostile, allow_pickle=True)
    for content in ((tmp_path / "hostile.npy").read_bytes(), b"\x93NUMPY"):
        copy.write_bytes(content)
        assert np.array_equal(load_cached(source, tmp_path / "cache", "", lambda: pixels), pixels)
        assert "replacing the damaged copy of" in caplog.text


def test_code_in_a_checkpoint_is_not_run(tmp_path, trap):
    torch.save({"format": 1, "settings": Hostile(trap)}, tmp_path / "zip.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Hostile(trap)))
    for name, read in itertools.product(("zip.pt", "pickle.pt"), (segkit.load, weights.read_weights_file)):
        with pytest.raises(ValueError, match=f"{name}: refused, because it is damaged or asks to run code"):
            read(tmp_path / name)


@pytest.fixture(scope="module")
def stored_checkpoint():
    """A checkpoint of a small network."""
    network = compose_settings("train", [*SMALL, "run_name=a"])["model"]
    table = {"name": "two", "entries": [[i, str(i), [0, 0, i], False, ""] for i in range(2)]}
    state = segmenter.build(2, **network).state_dict()
    return {"format": 1, "iteration": 1, "settings": {"model": network}, "classes": table, "model": state}


@pytest.fixture
def content(stored_checkpoint):
    """A copy of the checkpoint that a test may change."""
    return copy.deepcopy(stored_checkpoint)


@pytest.mark.parametrize("name", ["os", "../../setup", "_family", None, ["resnest"]])
def test_checkpoint_settings_select_only_components(name, content, tmp_path):
    content["settings"]["model"]["backbone"]["name"] = name
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"model.backbone.name=.*there are: .*resnest"):
        segkit.load(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"no .* in segkit/models/backbones"):
        registry.build("models.backbones", {"name": name})


def test_checkpoint_settings_are_validated(content, tmp_path):
    content["settings"]["model"]["evil"] = 1
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"model.evil=1: there is no such setting"):
        segkit.load(tmp_path / "a.pt")
    torch.save({**content, "settings": {}}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"model\.backbone is missing; .*\nmodel\.head is missing"):
        segkit.load(tmp_path / "b.pt")


@pytest.mark.parametrize(
    "entries",
    [
        *([[0, "a"]], [["0", "a", [0, 0, 0], False, ""]], None, [[0, "a", [0], False, ""]], [], 7, "ab"),
        *(
            [[0, "a", color, False, ""]]
            for color in ([300, 0, 0], [0, float("inf"), 0], ["0"] * 3, [10**30] * 3)
        ),
        *([[identity, "a", [0] * 3, False, ""]] for identity in (-3, 1 << 16, 10**30, float("inf"), True)),
        [[0, "a", [0] * 3, False, ""], [0, "b", [1] * 3, False, ""]],
        [[0, "a", [0] * 3, True, ""]],
        [[0, "a", [0] * 3, False, "", "more"]],
    ],
)
def test_damaged_class_table_in_a_checkpoint_is_an_error(entries):
    with pytest.raises(ValueError, match="the class table of a checkpoint is damaged") as error:
        LabelMap.from_plain({"name": "a", "entries": entries})
    assert len(str(error.value)) < 300


WEIGHT = "head.block.4.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update({WEIGHT: state[WEIGHT].int()}), f"1 of another type: {WEIGHT} integer"),
        (lambda state: state.update({WEIGHT: state[WEIGHT] + 1j}), f"{WEIGHT} complex for float"),
        (lambda state: state.update({WEIGHT: state[WEIGHT].to_sparse()}), "of another type"),
        (lambda state: state.update({WEIGHT: 7}), "of another (shape|type)"),
        (lambda state: state.update({WEIGHT: state[WEIGHT] * float("nan")}), "contain NaN or infinity"),
        (lambda state: state.update({WEIGHT: state[WEIGHT][:1]}), "1 of another shape"),
        (lambda state: state.pop(WEIGHT), f"1 missing in the file: {WEIGHT}"),
        (lambda state: state.update({7: state.pop(WEIGHT)}), "1 missing in the file"),
        (lambda state: state.clear(), r"missing in the file: .*, \.\.\."),
    ],
)
def test_weights_of_wrong_types_are_rejected_in_one_line(change, message, content, tmp_path):
    change(content["model"])
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message) as error:
        segkit.load(tmp_path / "a.pt")
    assert "\n" not in str(error.value)
    torch.save(content["model"], tmp_path / "weights.pth")
    settings = {**content["settings"]["model"], "weights": str(tmp_path / "weights.pth")}
    with pytest.raises(ValueError, match=f"{message}|no state dict in this file") as error:
        segmenter.build(2, **settings)
    assert str(error.value).count("\n") <= 2
    assert len(str(error.value)) < 700


@pytest.mark.parametrize(("section", "value"), [("data", None), ("model", [1]), ("sizes", "text")])
def test_checkpoint_sections_must_be_dictionaries(section, value, content, tmp_path):
    content["settings"][section] = value
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=rf"no proper settings\.{section}"):
        segkit.load(tmp_path / "a.pt")


def deflate(path, *names):
    """A file of megabytes of zeros for each name, in a zip of a few kilobytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, bytes(50_000_000))
    return path


def test_zip_bombs_are_rejected_before_decompression(content, tmp_path):
    bombs = [
        deflate(tmp_path / "a.pt", "archive/data.pkl", "archive/data/0"),
        deflate(tmp_path / "b.pt", "x.pth"),
    ]
    inner = io.BytesIO()
    torch.save(content["model"], inner)
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
        archive.write(bombs[0], "x.pth")
    tracemalloc.start()
    for file in (*bombs, tmp_path / "c.pt"):
        with pytest.raises(ValueError, match=r"bytes inflate to (5|10)0,000,000"):
            weights.read_weights_file(file)
    with pytest.raises(ValueError, match="bytes inflate to 100,000,000"):
        checkpoint.read_checkpoint(bombs[0])
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_torchscript_files_are_rejected(tmp_path):
    with pytest.warns((DeprecationWarning, FutureWarning), match="jit"):
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="a TorchScript file, which holds code") as error:
        files.read_tensors(tmp_path / "a.pt")
    assert "weights_only" not in str(error.value)


def test_error_of_an_archive_says_to_unpack_it(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.zip", "w") as archive:
        archive.writestr("best.pt", b"")
    with pytest.raises(ValueError, match=r"not a PyTorch file; if it is an archive, unpack it \("):
        files.read_tensors(tmp_path / "weights.zip")
