"""Index of predictions: an output belongs to one input."""

from __future__ import annotations

import json

import pytest

from segkit.inference import prediction_index
from segkit.inference.prediction_index import ImageFile


@pytest.fixture
def claim(tmp_path):
    """Claim names in ``out`` for files of ``photos``, each written first if it is not there."""

    def call(*names, network="best", default=False, folder="photos", output="out"):
        images = []
        for name in names:
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.exists() or file.write_text(name)
            images.append(ImageFile(file, file.stem))
        how = {"source": str(tmp_path / folder), "network": {"weights": network}, "is_default": default}
        return prediction_index.claim_outputs(tmp_path / output, images, **how)

    return call


@pytest.fixture
def predict(claim):
    """Claim names, and write a mask of each."""

    def call(*names, **options):
        folder, images = claim(*names, **options)
        for image in images:
            mask = folder / "ids" / f"{image.name}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            mask.write_text(image.name)
        return folder, images

    return call


def test_index_has_input_and_network_of_every_output(predict, tmp_path):
    predict("a.jpg")
    content = json.loads((tmp_path / "out/predictions.json").read_text())
    path, size, _, key = content["origins"]["a"]
    assert (path, size, content["networks"][key]) == (str(tmp_path / "photos/a.jpg"), 5, {"weights": "best"})


def test_input_keeps_its_name_when_others_are_added(predict):
    first = predict("a.jpg.png")
    assert predict("a.jpg.png")[1] == first[1]
    images = predict("a.jpg.png", "a.jpg.tif")[1]
    assert [image.name for image in images] == ["a.jpg", "a.jpg-2"]
    assert predict("a.jpg.tif")[1] == images[1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda predict, root: predict("a.jpg", folder="other"), r"a: predicted from .*photos/a\.jpg"),
        (
            lambda predict, root: predict("a.jpg", network="last"),
            "a: predicted by another network or protocol",
        ),
        (
            lambda predict, root: ((root / "photos/a.jpg").write_text("changed"), predict("a.jpg")),
            r"a: predicted before .*photos/a\.jpg was changed",
        ),
        (
            lambda predict, root: ((root / "out/ids/b.png").write_text("mine"), predict("b.jpg")),
            "b: predictions.json does not list it",
        ),
    ],
)
def test_output_of_another_origin_is_not_overwritten(predict, tmp_path, change, message):
    predict("a.jpg")
    with pytest.raises(ValueError, match=message):
        change(predict, tmp_path)
    assert (tmp_path / "out/ids/a.png").read_text() == "a"
    assert not (tmp_path / "out/ids/b.png").exists() or (tmp_path / "out/ids/b.png").read_text() == "mine"


def test_unpredicted_input_may_change(claim, predict, tmp_path):
    claim("a.jpg")
    (tmp_path / "photos/a.jpg").write_text("repaired")
    assert predict("a.jpg")[1][0].name == "a"


def test_default_folder_belongs_to_one_source_and_network(predict, tmp_path):
    options = [{}, {"folder": "other"}, {"network": "last"}, {}, {"folder": "other"}]
    folders = [predict("a.jpg", default=True, **each)[0].name for each in options]
    assert folders == ["out", "out-2", "out-3", "out", "out-2"]


def test_default_folder_with_other_files_is_not_used(predict, tmp_path):
    (tmp_path / "out/ids").mkdir(parents=True)
    assert predict("a.jpg", default=True)[0].name == "out-2"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"segkit": 1, "origins": 3}', '{"segkit": 99}', "\xff"])
def test_damaged_index_is_rejected(claim, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predictions.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"predictions\.json: not an index of predictions, or damaged"):
        claim("a.jpg")


def test_listed_outputs_are_not_inputs(predict, tmp_path):
    predict("a.jpg", output="photos/out")
    paths = [tmp_path / "photos" / name for name in ("a.jpg", "out/ids/a.png", "out/ids/b.png", "out/a.png")]
    paths += [tmp_path / "photos/out/ids/a/000001.png"]
    assert prediction_index.drop_outputs(paths, tmp_path / "photos") == [paths[0], paths[2], paths[3]]
