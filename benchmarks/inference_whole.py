"""Memory of a large image, and time of a folder and a video from end to end."""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import ceilings
import inference_sides
import numpy as np
import torch
import turns

from segkit.data.label_map import LabelMap
from segkit.inference import Protocol, Strip, predict, predict_files, prepare, sources
from segkit.inference.predictor import LoadedModel, Predictor
from segkit.inference.video import Video, VideoFile
from segkit.visualize import overlays


def measure_large(given: argparse.Namespace) -> None:
    """Print the peak memory of one large image in tiles, over the loaded network and the image."""
    torch.set_num_threads(given.threads)
    height, width = inference_sides.parse_size(given.size)
    fast = prepare(inference_sides.build_network(given.variant), precision="auto")
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    how = Protocol(name="sliding", window=768, stride=768)
    before, start = turns.ProcessMemory().reset(), time.perf_counter()

    def on_strip(strip: Strip) -> None:
        if 10 * strip.bottom // height > 10 * strip.top // height:
            turns.log_message(f"  {strip.bottom} of {height} rows, {time.perf_counter() - start:.0f} s")

    predict(fast, image, how, on_strip=on_strip)
    grown, seconds = turns.read_mebibytes("VmHWM") - before, time.perf_counter() - start
    precision = str(next(fast.backbone.parameters()).dtype).removeprefix("torch.")
    print(
        f"\nResNeSt-{given.variant}, {width}x{height} pixels, {precision}: {grown / 1024:.2f} GiB over"
        f" network and image, {seconds:.0f} s; {ceilings.describe_machine(given.threads)}"
    )


def measure_pipeline(given: argparse.Namespace) -> None:
    """Print the seconds per image of a folder and a video from end to end, and of the network alone."""
    torch.set_num_threads(given.threads)
    image = inference_sides.make_image(inference_sides.parse_size(given.size))
    images = [np.roll(image, 40 * i, 1) for i in range(given.images)]
    table = LabelMap.from_plain(inference_sides.make_classes())
    trained = LoadedModel(inference_sides.build_network(given.variant), table)
    fast = Predictor(trained, Protocol(precision="auto"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with VideoFile(folder / "ride.mp4", 25) as video:
            for i, each in enumerate(images):
                overlays.save_image(folder / "photos" / f"{i}.jpg", each)
                video.add(each)
        how: dict[str, Any] = {"kinds": ["overlays"], "resume": False}
        photographs = sources.find_images(str(folder / "photos")).images
        outputs = (folder / str(number) for number in itertools.count())

        def predict_video() -> None:
            predict_files.predict_video(fast, Video(folder / "ride.mp4"), next(outputs), "ride", **how)

        ways: dict[str, Any] = {
            "network": lambda: [fast.predict(each) for each in images],
            "folder": lambda: predict_files.predict_images(fast, photographs, next(outputs), **how),
            "video": predict_video,
        }
        rounds = turns.time_rounds(ways, given.rounds, minutes=given.minutes)
    seconds = {name: statistics.median(each) / len(images) for name, each in rounds.items()}
    machine = ceilings.describe_machine(given.threads)
    print(f"\nResNeSt-{given.variant}, {given.size}, precision=auto, wall time; {machine}\n")
    print("| input | s per image | of the network's speed |\n|---|---|---|")
    for name, each in seconds.items():
        print(f"| {name} | {each:.3f} | {seconds['network'] / each:.0%} |")
