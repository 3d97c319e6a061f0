"""Memory of a large image, and time of a folder and a video from end to end."""

from __future__ import annotations

import argparse
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

from segkit.data.label_map import Entry, LabelMap
from segkit.inference import Protocol, Strip, predict, predict_files, prepare, sources
from segkit.inference.predictor import LoadedModel, Predictor
from segkit.inference.video import Video, VideoFile
from segkit.visualize import overlays


def large(given: argparse.Namespace) -> dict[str, Any]:
    """Measure the peak memory of one large image in tiles, over the loaded network and the image."""
    height, width = parse_size(given)
    fast = prepare(inference_sides.build_network(given.variant), precision="auto")
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    how = Protocol(name="sliding", window=768, stride=768)
    before, start = turns.ProcessMemory().reset(), time.perf_counter()

    def on_strip(strip: Strip) -> None:
        if 10 * strip.bottom // height > 10 * strip.top // height:
            turns.log_message(f"  {strip.bottom} of {height} rows, {time.perf_counter() - start:.0f} s")

    predict(fast, image, how, on_strip=on_strip)
    grown, took = turns.read_mebibytes("VmHWM") - before, time.perf_counter() - start
    precision = str(next(fast.backbone.parameters()).dtype).removeprefix("torch.")
    return {"grown": grown, "seconds": took, "precision": precision}


def format_large(part: dict[str, Any]) -> str:
    """Return the result in one line."""
    height, width = part["size"].split("x")
    return (
        f"\nResNeSt-{part['variant']}, {width}x{height} pixels, {part['precision']}: "
        f"{part['grown'] / 1024:.2f} GiB over network and image, {part['seconds']:.0f} s; {part['machine']}"
    )


def pipeline(given: argparse.Namespace) -> dict[str, Any]:
    """Measure seconds per image of a folder and a video from end to end, and of the network alone."""
    images = [np.roll(inference_sides.make_image(parse_size(given)), 40 * i, 1) for i in range(given.images)]
    colors = [(k, 255 - k, 2 * k % 256) for k in range(inference_sides.CLASSES)]
    table = LabelMap("noise", tuple(Entry(k, str(k), color) for k, color in enumerate(colors)))
    trained = LoadedModel(inference_sides.build_network(given.variant), table)
    fast = Predictor(trained, Protocol(precision="auto"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with VideoFile(folder / "ride.mp4", 25) as video:
            for i, image in enumerate(images):
                overlays.save_image(folder / "photos" / f"{i}.jpg", image)
                video.add(image)
        how: dict[str, Any] = {"kinds": ["overlays"], "resume": False}
        photographs, ride = sources.find_images(str(folder / "photos")).images, folder / "ride.mp4"
        ways: dict[str, Any] = {
            "network": lambda out: [fast.predict(image) for image in images],
            "folder": lambda out: predict_files.predict_images(fast, photographs, out, **how),
            "video": lambda out: predict_files.predict_video(fast, Video(ride), out, "ride", **how),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        first_start = time.perf_counter()
        for turn in range(given.rounds + 1):  # the first warms up
            spent = time.perf_counter() - first_start
            if turn > 1 and spent * (turn + 1) / turn > 60 * given.minutes:
                break
            for name, way in ways.items():
                start = time.perf_counter()
                way(folder / str(turn))
                seconds[name].append((time.perf_counter() - start) / len(images))
                turns.log_message(
                    f"  round {turn} of {given.rounds}, {name}: {seconds[name][-1]:.3f} s per image"
                )
    return {"rows": {name: statistics.median(each[1:]) for name, each in seconds.items()}}


def format_pipeline(part: dict[str, Any]) -> str:
    """Return the table in Markdown."""
    lines = [f"\nResNeSt-{part['variant']}, {part['size']}, precision=auto, wall time; {part['machine']}\n"]
    lines += ["| input | s per image | of the network's speed |", "|---|---|---|"]
    network = part["rows"]["network"]
    lines += [f"| {name} | {each:.3f} | {network / each:.0%} |" for name, each in part["rows"].items()]
    return "\n".join(lines)


def parse_size(given: argparse.Namespace) -> tuple[int, int]:
    """Return height and width of ``--size``."""
    height, width = (int(part) for part in given.size.split("x"))
    return height, width


def run(given: argparse.Namespace) -> None:
    """Measure, store and print."""
    torch.set_num_threads(given.threads)
    part = {"what": given.what, "size": given.size, "variant": given.variant, "threads": given.threads}
    part |= {"machine": ceilings.describe_machine(given.threads)}
    part |= large(given) if given.what == "large" else pipeline(given)
    turns.store_results(given, part)
    print(format_large(part) if given.what == "large" else format_pipeline(part))
