"""``predict_seg.py`` and ``segkit.load``: outputs, resume, videos and errors."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import segkit
from conftest import run_command
from segkit import checkpoint, inference
from segkit.inference import predict_files
from segkit.inference.prediction_index import ImageFile
from segkit.inference.video import Video, VideoFile, add_legend_strip
from segkit.visualize import overlays


def read_pixels(file):
    with Image.open(file) as image:
        return np.array(image)


@pytest.fixture(scope="module")
def network(tiny_run):
    """Predictor of the tiny run."""
    return segkit.load(tiny_run / "best.pt", device="cpu")


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Folder with images of several formats, names and sizes, and a damaged one."""
    folder = tmp_path_factory.mktemp("album")
    draw = np.random.default_rng(1)
    sizes = {"a.png": (40, 32), "Größe (1)/straße=ß.png": (24, 48), "Größe (1)/b.c.png": (32, 32)}
    for name, size in sizes.items():
        overlays.save_image(folder / name, draw.integers(0, 256, (*size, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying on its side
    Image.new("RGB", (40, 20)).save(folder / "turned.jpg", exif=turned)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "notes.txt.bak").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def prediction_run(tiny_run, album, tmp_path_factory):
    """Output folder of the command with all kinds of outputs, and the finished process."""
    output = tmp_path_factory.mktemp("predicted") / "out"
    kinds = "save=[ids,colors,overlays,probabilities]"
    words = f"checkpoint={tiny_run / 'best.pt'}", f"input={album}", f"output={output}", kinds
    return output, run_command("predict_seg.py", *words, status=1)


@pytest.mark.medium
def test_command_writes_all_kinds_of_readable_images(prediction_run, album, network):
    output, done = prediction_run
    found = {file.relative_to(output).as_posix() for file in output.rglob("*") if file.is_file()}
    kinds = {"colors": ".png", "ids": ".png", "overlays": ".jpg", "probabilities": ".npz"}
    names = ["Größe (1)/b.c", "Größe (1)/straße=ß", "a", "turned"]
    outputs = {f"{kind}/{name}{suffix}" for kind, suffix in kinds.items() for name in names}
    assert found == {*outputs, "predictions.json"}
    assert f"Not predicted:\n{album}/broken.png: is damaged, cut short or not an image" in done.stderr
    assert "images: 4 predicted, 0 skipped, 1 failed" in done.stdout
    name = names[1]
    ids = read_pixels(output / f"ids/{name}.png")
    assert np.array_equal(ids, network.predict(album / f"{name}.png"))  # ids of shapes are those of its masks
    colors = read_pixels(output / f"colors/{name}.png")
    assert np.array_equal(colors, network.table.colors[ids])
    with np.load(output / f"probabilities/{name}.npz") as stored:
        assert np.array_equal(stored["probabilities"].astype(np.float32).argmax(0), ids)
        assert stored["names"].tolist() == network.table.names
    assert read_pixels(output / f"overlays/{name}.jpg").shape[0] > ids.shape[0]  # a legend below
    assert read_pixels(output / "ids/turned.png").shape == (40, 20)  # EXIF orientation is applied


@pytest.mark.medium
def test_resume_writes_missing_outputs_only(prediction_run, album, tiny_run, run_here, capsys):
    output, _ = prediction_run
    words = f"checkpoint={tiny_run}/best.pt", f"input={album}/*.*", f"output={output}", "save=[ids,overlays]"
    assert run_here("predict_seg", *words) == 2
    assert "has 2 of these 3 predictions already. Skip them with resume=true" in capsys.readouterr().err
    existing = [output / "ids/a.png", output / "overlays/turned.jpg"]
    stamps = [file.stat().st_mtime_ns for file in existing]
    turned = (output / "ids/turned.png").read_bytes()
    (output / "ids/turned.png").unlink()
    assert run_here("predict_seg", *words, "resume=true") == 1
    captured = capsys.readouterr()
    assert "broken.png" in captured.err
    assert "images: 1 predicted, 1 skipped, 1 failed" in captured.out
    assert [file.stat().st_mtime_ns for file in existing] == stamps
    assert (output / "ids/turned.png").read_bytes() == turned


@pytest.mark.medium
def test_video_gives_videos_and_masks_of_every_frame(tiny_run, tmp_path, run_here, network, capsys):
    scenes = np.random.default_rng(2).integers(0, 256, (5, 8, 8, 3), np.uint8).repeat(6, 1).repeat(8, 2)
    with VideoFile(tmp_path / "ride.mp4", 12.5) as video:
        for scene in scenes:
            video.add(scene)
    copy = shutil.copy(tiny_run / "best.pt", tmp_path)
    words = f"checkpoint={copy}", f"input={tmp_path / 'ride.mp4'}", "save=[ids,overlays,colors]"
    assert run_here("predict_seg", *words) == 0
    output = tmp_path / "predict-ride"
    overlays = Video(output / "overlays/ride.mp4")
    assert (len(list(overlays)), overlays.rate, overlays.length) == (5, 12.5, 5)
    assert [frame.shape for _, frame in Video(output / "colors/ride.mp4")] == [(48, 64, 3)] * 5
    masks = sorted((output / "ids/ride").iterdir())
    assert [file.name for file in masks] == [f"{i:06d}.png" for i in range(5)]
    third = list(Video(tmp_path / "ride.mp4"))[2][1]
    assert np.array_equal(read_pixels(masks[2]), network.predict(third))
    masks[1].unlink()
    assert run_here("predict_seg", *words) == 2
    assert "has 3 outputs of ride already" in capsys.readouterr().err
    assert run_here("predict_seg", *words, "resume=true") == 0
    assert "frames: 1 predicted, 4 skipped, 0 failed" in capsys.readouterr().out


def write_video(path):
    """Write 20 frames whose brightness is 12 times their number."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    noise = np.random.default_rng(0).integers(0, 9, (48, 64, 3), np.uint8)
    for number in range(20):
        writer.write(noise + np.uint8(12 * number))
    writer.release()


def damage_frames(path, numbers):
    """Overwrite the pixels of some frames of an AVI; its other frames and its index stay."""
    content = bytearray(path.read_bytes())
    start = content.find(b"movi") + 4
    for number in range(20):
        size = int.from_bytes(content[start + 4 : start + 8], "little")
        if number in numbers:
            content[start + 8 : start + 8 + size] = bytes(size)
        start += 8 + size + size % 2
    path.write_bytes(content)


@pytest.mark.medium
def test_video_with_unreadable_frames_keeps_frame_numbers(tiny_run, tmp_path, run_here, capsys):
    write_video(tmp_path / "ride.avi")
    damage_frames(tmp_path / "ride.avi", {0, 7, 8, 12})
    words = f"checkpoint={tiny_run / 'best.pt'}", f"input={tmp_path}/ride.avi", f"output={tmp_path}/out"
    assert run_here("predict_seg", *words, "save=[ids,overlays]") == 1
    captured = capsys.readouterr()
    assert "frames: 16 predicted, 0 skipped, 4 failed" in captured.out
    assert "ride.avi: only 16 of 20 frames can be read" in captured.err
    numbers = [int(file.stem) for file in sorted((tmp_path / "out/ids/ride").iterdir())]
    assert numbers == [number for number in range(20) if number not in {0, 7, 8, 12}]
    assert len(list(Video(tmp_path / "out/overlays/ride.mp4"))) == 20
    for number, frame in Video(tmp_path / "ride.avi"):
        assert round(float(frame.mean()) / 12) == number


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
@pytest.mark.parametrize("is_cut", [False, True])
def test_frames_of_damaged_videos_keep_their_numbers(tmp_path, suffix, is_cut):
    file = tmp_path / f"ride{suffix}"
    write_video(file)
    content = bytearray(file.read_bytes())
    start = max(content.find(b"movi"), 0)  # behind the header of an AVI
    middle, size = (start + len(content)) // 2, (len(content) - start) // 6
    if is_cut:
        del content[middle:]
    else:
        content[middle : middle + size] = bytes(size)  # data and headers of several frames
    file.write_bytes(content)
    video = Video(file)
    found = {number: round(float(frame.mean()) / 12) for number, frame in video}
    assert list(found) == list(found.values())
    assert {0, 1, 2} <= set(found)
    assert is_cut or {18, 19} <= set(found)
    assert len(found) < 20 == video.length


def test_unfinished_video_file_is_removed(tmp_path):
    def half():
        with VideoFile(tmp_path / "half.mp4", 10) as video:
            video.add(np.zeros((32, 32, 3), np.uint8))
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="power"):
        half()
    assert list(tmp_path.iterdir()) == []


def test_video_legend_has_fixed_height_and_largest_classes():
    names, colors = [f"class {k}" for k in range(60)], np.arange(180, dtype=np.uint8).reshape(60, 3)
    image = np.zeros((90, 120, 3), np.uint8)
    one, two = np.full((90, 120), 7, np.uint8), np.arange(60, dtype=np.uint8).repeat(180).reshape(90, 120)
    frames = [add_legend_strip(image, ids, names, colors) for ids in (one, two)]
    assert frames[0].shape == frames[1].shape == (120, 120, 3)
    assert (frames[0][90:] == colors[7]).all(2).any()
    assert not (frames[0][90:] == colors[8]).all(2).any()


@pytest.mark.medium
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "input= is missing: give an image, a folder, a pattern"),
        (["input=nowhere"], "input=nowhere: there is no such file"),
        (["input=."], "no image is in this folder"),
        (["input=not.mp4"], "not.mp4: not a readable video"),
        (["input=999"], "input=999: no such camera"),
        (["input={album}", "output=not.mp4/out"], "output=not.mp4/out: cannot be written (Not a directory)"),
        (["input={album}", "save=[]"], "save=[]: no output is selected"),
        (["input={album}", "checkpoint=null"], "Give checkpoint=runs/NAME/best.pt"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of a camera that is not there
def test_unusable_input_or_output_gives_one_error_line(
    tiny_run, album, tmp_path, run_here, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "not.mp4").write_text("no video")
    defaults = f"checkpoint={tiny_run}/best.pt", "output=results"
    assert run_here("predict_seg", *defaults, *(word.format(album=album) for word in words)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["not.mp4"]


@pytest.fixture
def cameras(tiny_run, tmp_path):
    """Two folders ``cam`` of two images each, and a copy of the checkpoint: ``checkpoint=...``."""
    draw = np.random.default_rng(3)
    for day in ("monday", "tuesday"):
        for number in range(2):
            image = draw.integers(0, 256, (32, 32, 3), np.uint8)
            overlays.save_image(tmp_path / day / "cam" / f"{number}.png", image)
    return f"checkpoint={shutil.copy(tiny_run / 'best.pt', tmp_path)}"


@pytest.mark.medium
def test_other_inputs_and_other_weights_get_their_own_folders(cameras, tmp_path, tiny_run, run_here, capsys):
    other = f"checkpoint={shutil.copy(tiny_run / 'last.pt', tmp_path)}"
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    content["average"]["backbone.bn1.weight"] += 1
    torch.save(content, tmp_path / "last.pt")
    for model, day in [(cameras, "monday"), (cameras, "tuesday"), (other, "monday"), (cameras, "tuesday")]:
        assert run_here("predict_seg", model, f"input={tmp_path}/{day}/cam", "resume=true") == 0
    captured = capsys.readouterr().out
    assert captured.count("images: 2 predicted, 0 skipped, 0 failed") == 3
    assert captured.count("images: 0 predicted, 2 skipped, 0 failed") == 1
    for folder in ("predict-cam", "predict-cam-2", "predict-cam-3"):
        assert sorted(file.name for file in (tmp_path / folder / "ids").iterdir()) == ["0.png", "1.png"]


@pytest.mark.medium
def test_outputs_inside_the_input_are_not_predicted(cameras, tmp_path, run_here, capsys):
    for place in ("", "/*.*", "/**/*.*"):
        words = cameras, f"input={tmp_path}/monday{place}", f"output={tmp_path}/monday/out", "resume=true"
        assert run_here("predict_seg", *words) == (2 if place == "/*.*" else 0)
    assert len(list((tmp_path / "monday/out/ids").rglob("*.png"))) == 2
    assert "images: 0 predicted, 2 skipped, 0 failed" in capsys.readouterr().out


@pytest.mark.medium
def test_image_of_unsupported_size_is_listed_as_failure(network, cameras, tmp_path, monkeypatch):
    images = [ImageFile(file, file.stem) for file in sorted((tmp_path / "monday/cam").iterdir())]
    images.append(images[0]._replace(name="2"))
    own, calls = network.predict, []

    def predict(image):
        calls.append(image)
        if len(calls) == 2:
            raise ValueError("takes images of 40x56 only")
        return own(image)

    monkeypatch.setattr(network, "predict", predict)
    how = {"kinds": ["ids"], "resume": False}
    outcome = predict_files.predict_images(network, images, tmp_path / "out", **how)
    assert outcome[:3] == (2, 0, 1)
    assert outcome.failures == [f"{images[1].file}: takes images of 40x56 only"]
    assert sorted(file.stem for file in (tmp_path / "out/ids").iterdir()) == ["0", "2"]


@pytest.mark.medium
def test_input_can_be_a_numeric_folder_or_several(cameras, tmp_path, run_here, monkeypatch, capsys):
    (tmp_path / "monday").rename(tmp_path / "2024")
    monkeypatch.chdir(tmp_path)
    assert run_here("predict_seg", cameras, "input=2024", "save=[ids]") == 0
    assert run_here("predict_seg", cameras, "input=[2024/cam,tuesday/cam/0.png]", "output=both") == 0
    assert "images: 3 predicted" in capsys.readouterr().out
    assert (tmp_path / "both/ids/2024/cam/0.png").exists()
    assert (tmp_path / "both/ids/tuesday/cam/0.png").exists()


@pytest.mark.medium
def test_published_weights_predict_without_data(tiny_run, album, tmp_path, run_here, network):
    words = "model=deeplabv3_demo model.backbone.width=8 model.head.width=16"
    words += f" model.weights={tiny_run}/best.pt"
    rest = f"data=shapes input={album}/a.png output={tmp_path} save=[ids]"
    assert run_here("predict_seg", *words.split(), *rest.split()) == 0
    assert np.array_equal(read_pixels(tmp_path / "ids/a.png"), network.predict(album / "a.png"))


@pytest.mark.medium
def test_predictor_uses_the_given_protocol(tiny_run, album):
    how = inference.Protocol(scales=(0.5, 1.0), flip=True)
    network = segkit.load(str(tiny_run / "last.pt"), device="cpu", protocol=how)
    pixels = read_pixels(album / "a.png")
    mirrored = np.ascontiguousarray(pixels[:, ::-1])
    there, back = network.probabilities(pixels), network.probabilities(mirrored)[:, :, ::-1]
    assert np.allclose(there, back, atol=1e-5)


def test_unknown_attribute_of_the_package_is_an_error():
    with pytest.raises(AttributeError, match="module 'segkit' has no attribute 'nothing'"):
        segkit.nothing  # noqa: B018


@pytest.mark.medium
def test_predictor_network_is_plain_pytorch(network, tiny_run, album):
    plain = network.network
    stored = checkpoint.read_checkpoint(tiny_run / "best.pt")["model"]
    assert plain.state_dict().keys() == stored.keys()
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in plain.modules())
    assert {type(part).__module__.split(".")[1] for part in plain.modules()} & {"inference"} == set()
    pixels = torch.from_numpy(read_pixels(album / "a.png")).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = torch.export.export(plain.eval(), (pixels,)).module()(pixels).main
    assert np.array_equal(logits[0].argmax(0).numpy(), network.predict(album / "a.png"))
