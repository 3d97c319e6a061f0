"""Predicting with ``predict_seg.py`` and ``segkit.load``: what is written, left out, told and refused."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import segkit
from conftest import ROOT, run_command
from segkit import checkpoint, inference
from segkit.drawing import overlays
from segkit.inference.video import Video, VideoFile, with_legend_strip
from segkit.types import Sample


def pixels_of(file):
    with Image.open(file) as image:
        return np.array(image)


@pytest.fixture(scope="module")
def network(tiny_run):
    """The trained network, for use in Python."""
    return segkit.load(tiny_run / "best.pt", device="cpu")


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A folder with images of several kinds, names and sizes, and one that is none."""
    folder = tmp_path_factory.mktemp("album")
    draw = np.random.default_rng(1)
    for name, size in {
        "a.png": (40, 32),
        "Größe (1)/straße=ß.png": (24, 48),
        "Größe (1)/b.c.png": (32, 32),
    }.items():
        overlays.save(folder / name, draw.integers(0, 256, (*size, 3), np.uint8))
    upright = Image.fromarray(draw.integers(0, 256, (20, 40, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying on its side
    upright.save(folder / "turned.jpg", exif=turned)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "notes.txt.bak").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def predicted(tiny_run, album, tmp_path_factory):
    """What the command makes of the album, in all kinds, and how it ended."""
    output = tmp_path_factory.mktemp("predicted") / "out"
    kinds = "save=[ids,colours,overlays,probabilities]"
    words = f"checkpoint={tiny_run / 'best.pt'}", f"input={album}", f"output={output}", kinds
    return output, run_command("predict_seg.py", *words, status=2)


def test_the_folders_of_the_images_are_kept(predicted):
    output, _ = predicted
    found = sorted(file.relative_to(output).as_posix() for file in output.rglob("*") if file.is_file())
    names = ["Größe (1)/b.c", "Größe (1)/straße=ß", "a", "turned"]
    kinds = {"colours": ".png", "ids": ".png", "overlays": ".jpg", "probabilities": ".npz"}
    assert found == sorted(f"{kind}/{name}{suffix}" for kind, suffix in kinds.items() for name in names)


def test_an_unreadable_image_is_told_at_the_end_and_stops_nothing(predicted, album):
    done = predicted[1]
    assert f"1 could not be read:\n{album}/broken.png: not an image, or only part of one" in done.stderr
    assert "4 of 5 images are predicted" in done.stdout


def test_the_kinds_agree_with_each_other_and_with_python(predicted, album, network):
    output, _ = predicted
    name = "Größe (1)/straße=ß"
    ids = cv2.imdecode(np.fromfile(output / f"ids/{name}.png", np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(ids, network.predict(album / f"{name}.png"))  # ids of shapes are those of its masks
    colours = pixels_of(output / f"colours/{name}.png")
    assert np.array_equal(colours, np.array([entry.colour for entry in network.table.classes])[ids])
    with np.load(output / f"probabilities/{name}.npz") as stored:
        assert np.array_equal(stored["probabilities"].astype(np.float32).argmax(0), ids)
        assert stored["names"].tolist() == network.table.names
    overlay = pixels_of(output / f"overlays/{name}.jpg")
    assert overlay.shape[0] > ids.shape[0]  # a legend below


def test_a_image_is_turned_as_its_exif_orientation_says(predicted):
    assert pixels_of(predicted[0] / "ids/turned.png").shape == (40, 20)


def test_resume_leaves_out_what_is_done_and_nothing_is_written_over(
    predicted, album, tiny_run, run_here, capsys
):
    output, _ = predicted
    words = (
        f"checkpoint={tiny_run / 'best.pt'}",
        f"input={album / '*.*'}",
        f"output={output}",
        "save=[ids,overlays]",
    )
    assert run_here("predict_seg", *words) == 2
    assert "holds 2 of these 3 predictions; leave them out with resume=true" in capsys.readouterr().err
    stamp = (output / "ids/a.png").stat().st_mtime_ns
    turned = (output / "ids/turned.png").read_bytes()
    (output / "ids/turned.png").unlink()
    assert run_here("predict_seg", *words, "resume=true") == 2
    assert "broken.png" in capsys.readouterr().err
    assert (output / "ids/a.png").stat().st_mtime_ns == stamp
    assert (output / "ids/turned.png").read_bytes() == turned


def test_a_video_becomes_a_video_of_as_many_frames_and_masks_of_each(tiny_run, tmp_path, run_here, network):
    scenes = np.random.default_rng(2).integers(0, 256, (5, 8, 8, 3), np.uint8).repeat(6, 1).repeat(8, 2)
    with VideoFile(tmp_path / "ride.mp4", 12.5) as video:
        for scene in scenes:
            video.add(scene)
    copy = tmp_path / "best.pt"
    copy.write_bytes((tiny_run / "best.pt").read_bytes())
    words = f"checkpoint={copy}", f"input={tmp_path / 'ride.mp4'}", "save=[ids,overlays,colours]"
    assert run_here("predict_seg", *words) == 0
    output = tmp_path / "predict-ride"
    overlays = Video(str(output / "overlays/ride.mp4"))
    assert (len(list(overlays)), overlays.rate, overlays.length) == (5, 12.5, 5)
    assert [frame.shape for frame in Video(str(output / "colours/ride.mp4"))] == [(48, 64, 3)] * 5
    assert [file.name for file in sorted((output / "ids/ride").iterdir())] == [
        f"{i:06d}.png" for i in range(5)
    ]
    third = list(Video(str(tmp_path / "ride.mp4")))[2]
    assert np.array_equal(pixels_of(output / "ids/ride/000002.png"), network.predict(third))
    assert run_here("predict_seg", *words) == 2  # there already


def test_a_video_that_is_not_finished_is_not_there(tmp_path):
    def half():
        with VideoFile(tmp_path / "half.mp4", 10) as video:
            video.add(np.zeros((32, 32, 3), np.uint8))
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="power"):
        half()
    assert list(tmp_path.iterdir()) == []


def test_the_legend_of_a_video_has_one_height_and_names_the_largest_classes_first():
    names, colours = [f"class {k}" for k in range(60)], np.arange(180, dtype=np.uint8).reshape(60, 3)
    image = np.zeros((90, 120, 3), np.uint8)
    one, two = np.full((90, 120), 7, np.uint8), np.arange(60, dtype=np.uint8).repeat(180).reshape(90, 120)
    frames = [with_legend_strip(image, ids, names, colours) for ids in (one, two)]
    assert frames[0].shape == frames[1].shape == (120, 120, 3)
    assert (frames[0][90:] == colours[7]).all(2).any()
    assert not (frames[0][90:] == colours[8]).all(2).any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["checkpoint={run}/best.pt"], "input= is missing: give an image, a folder, a pattern"),
        (["checkpoint={run}/best.pt", "input=nowhere"], "input=nowhere: there is no such file"),
        (["checkpoint={run}/best.pt", "input=clip.mp4"], "input=clip.mp4: there is no such file"),
        (["checkpoint={run}/best.pt", "input={here}"], "no image is in this folder"),
        (["checkpoint={run}/best.pt", "input={here}/not.mp4"], "not.mp4: not a video that can be read"),
        (["checkpoint={run}/best.pt", "input=999"], "input=999: no camera answers"),
        (["input={here}"], "Give checkpoint=runs/NAME/best.pt"),
        (["checkpoint={run}/best.pt", "input={here}", "save=[mask]"], "save="),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of a camera that is not there
def test_what_cannot_be_predicted_is_refused_with_the_reason(
    tiny_run, tmp_path, run_here, capsys, words, message
):
    (tmp_path / "not.mp4").write_text("no video")
    words = [word.format(run=tiny_run, here=tmp_path) for word in words]
    assert run_here("predict_seg", *words, f"output={tmp_path / 'results'}") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_published_weights_predict_without_data(tiny_run, album, tmp_path, run_here, network):
    words = (
        f"model=deeplabv3_demo model.backbone.width=8 model.head.width=16 model.weights={tiny_run}/best.pt"
    )
    rest = f"data=shapes input={album}/a.png output={tmp_path} save=[ids]"
    assert run_here("predict_seg", *words.split(), *rest.split()) == 0
    assert np.array_equal(pixels_of(tmp_path / "ids/a.png"), network.predict(album / "a.png"))


def test_a_loaded_network_says_the_same_of_a_file_and_of_its_pixels(network, album):
    ids = network.predict(album / "a.png")
    assert (ids.shape, ids.dtype) == ((40, 32), np.uint8)
    pixels = pixels_of(album / "a.png")
    assert np.array_equal(network.predict(pixels), ids)
    probabilities = network.probabilities(str(album / "a.png"))
    assert probabilities.shape == (10, 40, 32)
    assert np.allclose(probabilities.sum(0), 1, atol=1e-5)
    assert np.array_equal(probabilities.argmax(0), ids)
    with pytest.raises(ValueError, match=r"nowhere\.png"):
        network.predict("nowhere.png")


def test_a_loaded_network_follows_the_protocol_it_is_given(tiny_run, album):
    how = inference.Protocol(scales=(0.5, 1.0), flip=True)
    network = segkit.load(str(tiny_run / "last.pt"), device="cpu", protocol=how)
    pixels = pixels_of(album / "a.png")
    mirrored = np.ascontiguousarray(pixels[:, ::-1])
    there, back = network.probabilities(pixels), network.probabilities(mirrored)[:, :, ::-1]
    assert np.allclose(there, back, atol=1e-5)


def test_importing_segkit_imports_no_torch():
    code = "import sys, segkit; assert 'torch' not in sys.modules; segkit.nothing"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "module 'segkit' has no attribute 'nothing'" in done.stderr
    assert "AssertionError" not in done.stderr


def test_class_ids_are_saved_as_the_data_sets_own_ids(tmp_path):
    from segkit.data.labels import built_in
    from segkit.evaluation import results

    table = built_in("cityscapes")
    sample = Sample(np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8), "city/frame")
    results.keeper(tmp_path, table, kinds={"ids"}, gallery=None)(sample, np.full((4, 5), 13, np.uint8))
    assert (pixels_of(tmp_path / "ids/city/frame.png") == 26).all()  # class 13, car, is label id 26


def test_every_kind_of_image_says_the_same(network, album, monkeypatch):
    monkeypatch.setenv("HOME", str(album))
    expected = network.predict(album / "a.png")
    stored = (album / "a.png").read_bytes()
    with Image.open(album / "a.png") as image:
        kinds = [image.convert("RGBA"), "~/a.png", stored, bytearray(stored), memoryview(stored)]
        assert all(np.array_equal(network.predict(kind), expected) for kind in kinds)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "the 0 bytes given: the file is empty"),
        (b"GIF89a?", "the 7 bytes given: "),
        (7, "an image of type int: give a path, the bytes of a file, a PIL image"),
        ([[1]], "an image of type list"),
        (None, "an image of type NoneType"),
    ],
)
def test_what_is_no_image_is_refused_with_what_is_taken(network, image, message):
    with pytest.raises(ValueError, match=message):
        network.predict(image)


def test_the_network_of_a_loaded_model_is_plain_pytorch(network, tiny_run, album):
    plain = network.network
    stored = checkpoint.read(tiny_run / "best.pt")["model"]
    assert plain.state_dict().keys() == stored.keys()
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in plain.modules())
    assert {type(part).__module__.split(".")[1] for part in plain.modules()} & {"inference"} == set()
    pixels = torch.from_numpy(pixels_of(album / "a.png")).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = torch.export.export(plain.eval(), (pixels,)).module()(pixels).main
    assert np.array_equal(logits[0].argmax(0).numpy(), network.predict(album / "a.png"))
