"""Index of predictions: an output belongs to one input, and a folder to one network."""

from __future__ import annotations

import json

import pytest

from segkit.inference import prediction_index
from segkit.inference.prediction_index import ImageFile


@pytest.fixture
def predict(tmp_path):
    """Claim names in ``out`` for files of ``photos``, written first if missing; write a mask of each."""

    def call(*names, network="best", default=False, folder="photos", output="out", is_written=True):
        images = []
        for name in names:
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.exists() or file.write_text(name)
            images.append(ImageFile(file, file.stem))
        how = {"source": str(tmp_path / folder), "network": {"weights": network}, "is_default": default}
        output = prediction_index.claim_outputs(tmp_path / output, images, **how)
        for image in images if is_written else []:
            (output / "ids").mkdir(exist_ok=True)
            (output / "ids" / f"{image.name}.png").write_text(image.name)
        return output.name

    return call


def test_index_has_network_and_input_of_every_output(predict, tmp_path):
    predict("a.jpg")
    predict("b.jpg")
    content = json.loads((tmp_path / "out/predictions.json").read_text())
    assert content["network"] == {"weights": "best"}
    assert {name: input[:2] for name, input in content["inputs"].items()} == {
        name: [str(tmp_path / f"photos/{name}.jpg"), 5] for name in "ab"
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda predict, root: predict("a.jpg", folder="other"), r"of a from .*photos/a\.jpg, which is an"),
        (
            lambda predict, root: predict("b.jpg", network="last"),
            "predictions of another network or protocol",
        ),
        (
            lambda predict, root: ((root / "photos/a.jpg").write_text("changed"), predict("a.jpg")),
            r"a from .*photos/a\.jpg, .* or was changed",
        ),
        (
            lambda predict, root: ((root / "out/ids/b.png").write_text("mine"), predict("b.jpg")),
            "b from an unknown file",
        ),
    ],
)
def test_output_of_another_origin_is_not_overwritten(predict, tmp_path, change, message):
    predict("a.jpg")
    index = (tmp_path / "out/predictions.json").read_text()
    with pytest.raises(ValueError, match=message):
        change(predict, tmp_path)
    assert (tmp_path / "out/predictions.json").read_text() == index


def test_unpredicted_input_may_change(predict, tmp_path):
    predict("a.jpg", is_written=False)
    (tmp_path / "photos/a.jpg").write_text("repaired")
    predict("a.jpg")


def test_default_folder_belongs_to_one_source_and_network(predict, tmp_path):
    (tmp_path / "out/ids").mkdir(parents=True)  # of another program
    options = [{}, {"folder": "other"}, {"network": "last"}, {}, {"folder": "other"}]
    folders = [predict("a.jpg", default=True, **each) for each in options]
    assert folders == ["out-2", "out-3", "out-4", "out-2", "out-3"]


@pytest.mark.parametrize("content", [b"", b'{"source": "a", "network": {}, "inputs": {"a": 3}}', b"\xff"])
def test_damaged_index_is_rejected(predict, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predictions.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"predictions\.json: not an index of predictions, or damaged"):
        predict("a.jpg")


def test_outputs_are_not_inputs(predict, tmp_path):
    predict("a.jpg", output="photos/out")
    names = ["a.jpg", "out/a.png", "ids/a.png", "out/ids/a.png", "out/overlays/a/000001.jpg"]
    paths = [tmp_path / "photos" / name for name in names]
    assert prediction_index.drop_outputs(paths, tmp_path / "photos") == paths[:3]
