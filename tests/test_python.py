"""The Python API: public names, batches of images, own data sets and training loops."""

import json
import re
import runpy
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import segkit
from conftest import ROOT


@pytest.fixture(scope="module")
def model(tiny_run):
    return segkit.load(tiny_run / "best.pt", device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    for place, size in enumerate([(32, 48), (40, 24), (33, 35)]):
        Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{place}.png")
    return sorted(folder.glob("*.png"))


def test_public_names_are_documented_and_typed():
    page = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    stub = (ROOT / "segkit/__init__.pyi").read_text(encoding="utf-8")
    assert set(re.findall(r" as (\w+)$", stub, re.MULTILINE)) == set(segkit.__all__)
    for name in segkit.__all__:
        assert getattr(segkit, name).__doc__
        assert re.search(rf"`{name}\b", page), name
    assert set(segkit.__all__) <= set(dir(segkit))


@pytest.mark.medium
def test_batch_prediction_equals_single_prediction(model, files, monkeypatch):
    pixels = [np.array(Image.open(file)) for file in files]
    alone = [model.predict(file) for file in files]
    assert alone[0].dtype == np.uint8
    monkeypatch.setenv("HOME", str(files[0].parent))
    kinds = [
        files,
        tuple(f"~/{file.name}" for file in files),
        pixels,
        [Image.fromarray(array) for array in pixels],
        [Image.fromarray(array).convert("RGBA") for array in pixels],
        [kind(file.read_bytes()) for kind, file in zip((bytes, bytearray, memoryview), files, strict=True)],
    ]
    for images in kinds:
        together = model.predict(images)
        assert [ids.shape for ids in together] == [array.shape[:2] for array in pixels]
        assert all(map(np.array_equal, together, alone))
    batch = np.stack([pixels[0], pixels[0][::-1]])
    assert all(map(np.array_equal, model.predict(batch), map(model.predict, batch)))
    for ids, probabilities in zip(alone, model.probabilities(files), strict=True):
        assert np.allclose(probabilities.sum(0), 1, atol=1e-5)
        assert np.array_equal(probabilities.argmax(0), ids)
    assert model.predict([]) == []


@pytest.mark.medium
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "image file of 0 bytes: the file is empty"),
        ([np.zeros((8, 8, 3), np.uint8), b"GIF89a?"], "image file of 7 bytes: "),
        (7, "image of type int: give a path, the bytes of a file, a PIL image"),
        ("nowhere.png", r"nowhere\.png"),
        (Image.new("I;16", (8, 8)), r"PIL image of mode I;16.*image.convert\('RGB'\)"),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 9)), "PIL image of mode RGBA"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_images_of_other_types_and_beyond_8_bit_rgb_are_refused(model, image, message):
    with pytest.raises(ValueError, match=message):
        model.predict(image)


class Own:
    """A data set without a base class, over the validation scenes of the run."""

    name, on_error = "own", "stop"

    def __init__(self, scenes):
        self.scenes, self.table = scenes, scenes.table
        self.names = [f"own {index}" for index in range(len(scenes))]

    def __len__(self):
        return len(self.scenes)

    def read(self, index):
        sample = self.scenes.read(index)
        return segkit.Sample(sample.image, sample.label, self.names[index])


@pytest.mark.medium
def test_own_data_set_is_scored_as_in_the_run(model, tiny_run):
    settings = torch.load(tiny_run / "best.pt", weights_only=True)["settings"]
    own = Own(segkit.build_dataset(settings, "val"))
    found = segkit.evaluate(model.network, own, segkit.Protocol(), progress=False)
    written = json.loads((tiny_run / "result.json").read_text())
    assert found.images == len(own)
    assert found.scores["mIoU"] == pytest.approx(written["scores"]["mIoU"], abs=1e-12)


@pytest.mark.medium
def test_own_loop_example_trains_and_saves(tmp_path, monkeypatch, capsys):
    small = "data.size=32 data.val_scenes=4 augment.crop_size=32 model.backbone.width=8 model.head.width=16"
    words = f"{tmp_path}/new/mine.pt 21 {small} schedule.batch_size=4 loader.workers=0"
    monkeypatch.setattr(sys, "argv", ["own_loop.py", *words.split()])
    runpy.run_path(str(ROOT / "examples/own_loop.py"), run_name="__main__")
    output = capsys.readouterr().out
    losses = [float(number) for number in re.findall(r"loss ([\d.]+)", output)]
    assert losses[-1] < losses[0]
    mine = segkit.load(tmp_path / "new/mine.pt", device="cpu")
    settings = torch.load(tmp_path / "new/mine.pt", weights_only=True)["settings"]
    val_set = segkit.build_dataset(settings, "val")
    again = segkit.evaluate(mine.network, val_set, segkit.Protocol(), progress=False)
    assert f"mIoU {again.scores['mIoU']:.2%} of 4 images" in output


def test_own_loop_example_uses_public_names_only():
    text = (ROOT / "examples/own_loop.py").read_text(encoding="utf-8")
    used = set(re.findall(r"\bsegkit\.(\w+)", text.split('"""', 2)[2]))
    assert used <= set(segkit.__all__)
    assert not re.search(r"from segkit|import segkit\.", text)


def test_training_batches_equal_those_of_a_run():
    from segkit import training

    sizes = ["data.size=32", "augment.crop_size=32", "model.backbone.width=8", "model.head.width=16"]
    rule = ["data.train_scenes=7", "schedule.drop_last=true", "schedule.batch_size=3", "loader.workers=0"]
    settings = segkit.compose_settings("train", ["experiment=demo", *sizes, *rule])
    data = segkit.build_dataset(settings, "train")
    run = training.build_training(settings, data, torch.device("cpu"), val_set=data)
    steps = training.remaining_steps(run, settings, data)
    theirs = [next(steps)[0][0] for _ in range(12)]
    ours = [*segkit.training_batches(settings, data, iterations=range(2))]
    ours += segkit.training_batches(settings, data, iterations=range(2, 12))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.label, b.label)
        assert a.names == b.names
    for first in range(0, 12, 2):  # an epoch has six of the seven images
        assert len({name for batch in ours[first : first + 2] for name in batch.names}) == 6
