"""Records of a run, read back with TensorBoard's reader."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.profiler import record_function

from segkit import training
from segkit.monitor.monitor import Monitor
from segkit.monitor.profiling import profile_steps
from segkit.runtime import distributed
from segkit.types import Batch, Sample
from segkit.visualize import overlays

NAMES = ["sky", "traffic light", "road | path"]
COLORS = np.array([[0, 0, 255], [255, 0, 0], [90, 90, 90]], np.uint8)
NAN = float("nan")
COUNTS = np.array([[5, 1, 0], [2, 2, 0], [0, 0, 10**10]])


def record(folder: Path, *, start: int = 0, stop: int = 40, total: int = 40) -> Path:
    """A run whose loss is 1 / iteration; validated every 20 iterations."""
    arguments = {"start": start, "total": total, "iterations_per_epoch": 8.0}
    with Monitor(folder, names=NAMES, colors=COLORS, **arguments) as monitor:
        if not start:
            settings = {"schedule": {"lr": 0.01}, "model": {"name": "x"}, "data": {"flip": True}}
            monitor.log_settings({**settings, "sizes": [1, 2]}, network="<stem>\n  conv 3x3")
        for t in range(start + 1, stop + 1):
            monitor.log_step(
                t,
                {"main": torch.tensor(0.75 / t), "aux": torch.tensor(0.25 / t, requires_grad=True)},
                {"backbone": 0.1 / t, "head": 1.0 / t},
                images=4,
                data_seconds=0.0,
                gradient_norm=torch.tensor(2.0),
                ema_distance=lambda t=t: torch.tensor(t / 64),
            )
            if t % 20 == 0:
                classes = {"recall": [0.8, 0.25, NAN], "precision": [0.7, 0.6, NAN]}
                classes = {"IoU": [t / 100, 0.5, NAN], **classes}
                scores = {"pixAcc": 0.75, "mIoU": t / 100}
                monitor.log_scores(
                    t, scores, classes, losses={"main": 1.0 / t, "dice": 0.5 / t}, counts=COUNTS
                )
    return folder


def read(folder: Path) -> EventAccumulator:
    """What TensorBoard sees, without sampling."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return events.Reload()


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(point.step, round(point.value, 6)) for point in read(folder).Scalars(tag)]


def text(folder: Path, tag: str) -> list[str]:
    events = read(folder).Tensors(f"{tag}/text_summary")
    return [event.tensor_proto.string_val[0].decode() for event in events]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return record(tmp_path_factory.mktemp("runs") / "first")


def test_training_curves_have_the_values_of_their_step(run):
    points = (10, 20, 30, 40)
    assert curve(run, "train/loss") == [(t, round(1 / t, 6)) for t in points]  # the sum of its parts
    assert curve(run, "train/loss_aux") == [(t, round(0.25 / t, 6)) for t in points]
    assert curve(run, "train/lr") == curve(run, "train/lr_backbone")
    assert curve(run, "train/lr_head")[0] == (10, 0.1)
    assert curve(run, "train/norm_ema_distance")[0] == (10, 10 / 64)
    assert curve(run, "train/passed_epochs") == [(10, 1.25), (20, 2.5), (30, 3.75), (40, 5.0)]


def test_documented_curves_exist(run):
    tags = read(run).Tags()["scalars"]
    wall = {"images_per_second", "step_seconds", "data_share", "host_GiB_peak"}
    if torch.cuda.is_available():
        wall.add("device_GiB_peak")
    train = {"loss", "loss_main", "loss_aux", "lr", "lr_backbone", "lr_head", "norm_gradient"}
    train |= {"norm_ema_distance", "passed_epochs"}
    assert {tag.split("/", 1)[1] for tag in tags if tag.startswith("wall/")} == wall
    assert {tag.split("/", 1)[1] for tag in tags if tag.startswith("train/")} == train
    assert {tag for tag in tags if tag.startswith("val/")} == {
        f"val/{name}" for name in ("pixAcc", "mIoU", "loss", "loss_main", "loss_dice")
    }
    assert [tag for tag in tags if tag.startswith("val_iou/")] == ["val_iou/sky", "val_iou/traffic light"]
    assert {tag.split("/")[0] for tag in tags} == {"train", "val", "val_iou", "wall"}


def test_many_classes_record_the_worst_and_best_ten(tmp_path):
    names, iou = [f"c{k}" for k in range(40)], [k / 100 for k in range(40)]
    colors = np.zeros((40, 3), np.uint8)
    with Monitor(tmp_path, total=1, iterations_per_epoch=1, names=names, colors=colors) as monitor:
        monitor.log_scores(1, {"mIoU": 0.2}, {"IoU": iou})
    drawn = {tag for tag in read(tmp_path).Tags()["scalars"] if tag.startswith("val_iou/")}
    assert drawn == {f"val_iou/c{k}" for k in [*range(10), *range(30, 40)]}
    assert all(f"| c{k} |" in text(tmp_path, "val/classes")[0] for k in range(40))


@pytest.mark.parametrize(("stop", "start", "cut"), [(13, 0, 0), (37, 20, 7)])
def test_resumed_run_has_the_curves_of_an_uninterrupted_one(stop, start, cut, run, tmp_path):
    """Killed before the first checkpoint, and at 37 with an incomplete event file."""
    broken = record(tmp_path / "broken", stop=stop)
    file = next(broken.glob("events.*"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size - cut])
    record(broken, start=start)
    for tag in read(run).Tags()["scalars"]:
        if not tag.startswith("wall/"):
            assert curve(broken, tag) == curve(run, tag), tag
        assert [step for step, _ in curve(broken, tag)] == [step for step, _ in curve(run, tag)], tag


@pytest.mark.parametrize("clock", [-100_000, 0])
def test_curves_keep_their_order_if_the_clock_changes(clock, run, tmp_path, monkeypatch):
    now = time.time()
    broken = record(tmp_path / "broken", stop=37)
    for attempt, stop in enumerate((23, 40, 37, 40), start=1):  # all within one second, or each earlier
        monkeypatch.setattr(time, "time", lambda attempt=attempt: now + attempt * clock)
        record(broken, start=20, stop=stop)
    for tag in ("train/loss", "val/mIoU", "val_iou/sky"):
        assert curve(broken, tag) == curve(run, tag), tag
    assert [event.step for event in read(broken).Images("val/confusion")] == [20, 40]


def test_repeated_validation_replaces_the_interrupted_one(run, tmp_path):
    broken = record(tmp_path / "broken", stop=20)
    again = {"start": 20, "validation_pending": True, "total": 40, "iterations_per_epoch": 8.0}
    with Monitor(broken, names=NAMES, colors=COLORS, **again) as monitor:
        monitor.log_scores(20, {"mIoU": 0.2}, {"IoU": [0.2, 0.5, NAN]})
    assert curve(broken, "val/mIoU") == [(20, 0.2)]
    for tag in ("train/loss", "train/lr_head"):
        assert curve(broken, tag) == curve(run, tag)[:2]


def test_settings_are_hparams(run):
    from tensorboard.plugins.hparams import metadata

    content = read(run).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    assert start.hparams["data.flip"].string_value == "True"
    assert start.hparams["schedule.lr"].number_value == 0.01
    assert start.hparams["sizes"].string_value == "[1, 2]"
    content = read(run).summary_metadata["_hparams_/experiment"].plugin_data.content
    experiment = metadata.parse_experiment_plugin_data(content)
    assert [metric.name.tag for metric in experiment.metric_infos] == ["val/mIoU", "val/pixAcc"]


def test_texts_have_settings_network_environment_and_classes(run):
    lines = text(run, "settings")[0].splitlines()
    assert all(line.startswith("    ") for line in lines), "a code block of Markdown"
    assert json.loads("\n".join(lines))["schedule"] == {"lr": 0.01}
    assert text(run, "network") == ["    <stem>\n      conv 3x3"]
    assert torch.__version__.split("+")[0] in text(run, "environment")[0]
    assert re.search(r"[\d.]+, commit (unknown|[0-9a-f]{12}\+?)`", text(run, "environment")[0])
    assert "| traffic light | 50.00 | 25.00 | 60.00 |" in text(run, "val/classes")[0]
    assert "road \\| path" in text(run, "val/classes")[0]
    assert "| traffic light | sky | 2 | 50.00 |" in text(run, "val/confusions")[0]


def test_confusion_matrix_is_an_image(run):
    event = read(run).Images("val/confusion")[0]
    decoded = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert (decoded[..., ::-1] == overlays.draw_confusion_matrix(COUNTS, NAMES)).all()
    assert event.step == 20


def test_samples_and_batches_are_images(tmp_path):
    image = np.full((20, 30, 3), 50, np.uint8)
    sample = Sample(image, np.zeros((20, 30), np.uint8), "a")
    batch = Batch(torch.zeros(3, 3, 16, 16, dtype=torch.uint8), torch.full((3, 16, 16), 255), ["a", "b", "c"])
    with Monitor(tmp_path, total=1, iterations_per_epoch=1, names=NAMES, colors=COLORS) as monitor:
        monitor.log_batch(0, batch)
        monitor.log_samples(1, [sample] * 4, [sample.label] * 4)
    events = read(tmp_path)
    assert events.Tags()["images"] == ["train/samples", "val/samples"]
    rows = overlays.draw_sheet([sample] * 4, NAMES, COLORS, predictions=[sample.label] * 4).shape[0]
    assert events.Images("val/samples")[0].height == rows


def test_custom_scalars_layout_pairs_training_and_validation(run):
    from tensorboard.plugins.custom_scalar import layout_pb2

    event = read(run).Tensors("custom_scalars__config__")[0]
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert charts["mIoU"] == ["^val/mIoU$"]
    tags = read(run).Tags()["scalars"]
    drawn = {tag for tag in tags for pattern in charts["loss"] if re.match(pattern, tag)}
    assert drawn == {"train/loss_main", "val/loss_main", "val/loss_dice"}  # like with like: no auxiliary head


def test_messages_are_printed_and_logged_once(tmp_path, capsys):
    log = logging.getLogger("segkit")
    before = log.level, log.propagate, list(log.handlers)
    record(tmp_path, stop=39)
    with Monitor(tmp_path, start=39, total=40, iterations_per_epoch=8, names=NAMES, colors=COLORS) as monitor:
        log.warning("a damaged file")
        monitor.log_step(40, {"main": 1.0}, {"all": 0.1}, images=1, data_seconds=0.0)
    log.warning("after the run")
    assert (log.level, log.propagate, log.handlers) == before
    shown, logged = capsys.readouterr(), (tmp_path / "train.log").read_text()
    assert shown.err == ""
    for message in (
        "validation at 20 (epoch 2.50), in %: pixAcc 75.00  mIoU 20.00",
        "a damaged file",
        "40/40 (100 %)",
    ):
        assert shown.out.count(message) == logged.count(message) == 1
    assert "traffic light" in shown.out
    assert "after the run" not in logged


def test_terminal_has_one_progress_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    record(tmp_path)
    shown = capsys.readouterr()
    assert "loss" not in re.sub(r"validation.*", "", shown.out)
    assert re.search(r"40/40 \[.*loss 0\.\d{4}, lr 2\.5e-03, .* images/s, mIoU 20\.00", shown.err)
    assert "40/40 (100 %): loss" in (tmp_path / "train.log").read_text()


def test_speed_of_the_first_step_excludes_drawing(tmp_path, capsys):
    """What the network sees is drawn with that step, and drawing starts the clock anew."""
    image = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    batch = Batch(image, image[:, 0], ["a"] * 4)
    run = SimpleNamespace(iteration=1, ema_distance=lambda: None)
    run.schedule = SimpleNamespace(batch_size=4)
    with Monitor(tmp_path, total=10, iterations_per_epoch=1, names=NAMES, colors=COLORS) as monitor:
        time.sleep(0.4)
        step = training.Step(1, {"main": torch.tensor(1.0)}, torch.tensor(1.0), {"all": 0.1}, ["a"] * 4)
        training.log_step(monitor, run, step, [batch], waited=0.0)
    speed = re.search(r"1/10 .* ([\d.]+) images/s", capsys.readouterr().out)
    assert float(speed[1]) <= 10
    assert read(tmp_path).Tags()["images"] == ["train/samples"]


def test_other_ranks_record_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    record(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_tensors_are_read_only_at_points(tmp_path):
    class Counted(torch.Tensor):
        reads = 0

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.reads += function.__name__ in ("detach", "item", "tolist", "__float__")
            return super().__torch_function__(function, types, args, kwargs or {})

    loss, reads = torch.tensor(1.0).as_subclass(Counted), {}
    with Monitor(tmp_path, total=100, iterations_per_epoch=9, names=NAMES, colors=COLORS) as monitor:
        for t in range(1, 20):
            monitor.log_step(t, {"main": loss}, {"all": 0.1}, images=1, data_seconds=0.0)
            reads[t] = Counted.reads
    assert reads[1] == reads[9] < reads[10] == reads[19]


def test_profile_has_parts_of_a_step_and_a_trace(tmp_path):
    weight = torch.randn(300, 300, requires_grad=True)
    calls = []

    def step(image: torch.Tensor) -> None:
        calls.append(1)
        with record_function("forward"):
            loss = (image @ weight @ image).sum()
        with record_function("backward"):
            loss.backward()

    table = profile_steps((torch.randn(300, 300) for _ in range(9)), step, tmp_path, steps=3)
    assert len(calls) == 5
    assert (tmp_path / "trace.json.gz").stat().st_size > 500
    rows = {line[:40].strip(): line[40:].split() for line in table.splitlines() if line[40:].strip()}
    parts = [float(rows[part][0]) for part in ("data", "forward", "backward", "the rest")]
    assert math.isclose(sum(parts), float(rows["a step"][0]), abs_tol=0.05)
    assert "aten::mm" in rows


def test_profile_refuses_a_short_schedule(tmp_path):
    with pytest.raises(
        ValueError, match=r"profile=true: takes 12 steps, and the schedule is shorter\. Lengthen it"
    ):
        profile_steps(iter(range(3)), lambda _: None, tmp_path)
