"""Two measurements of the whole way: memory of a large image, and a folder and a video from end to end."""

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


class EnoughError(Exception):
    """As many rows were done as were asked for."""


def large(given: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of one large image in windows, over the loaded network and the image.

    With ``rows`` it ends after as many: the peak is of these alone, and the result says so.
    """
    height, width = size_of(given)
    fast = prepare(inference_sides.network(given.variant), precision="auto")
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    how = Protocol(name="sliding", window=768, stride=768)
    before, start, told = turns.ProcessMemory().reset(), time.perf_counter(), 0.0
    done = 0

    def on_strip(strip: Strip) -> None:
        nonlocal done, told
        done, now = strip.bottom, time.perf_counter()
        if now - told > 5:
            told, grown = now, turns.mebibytes("VmHWM") - before
            turns.log_message(
                f"  {done} of {height} rows, {now - start:.0f} s, {grown:.0f} MiB over the network"
            )
        if given.rows and done >= given.rows:
            raise EnoughError

    try:
        predict(fast, image, how, on_strip=on_strip)
    except EnoughError:
        turns.log_message(f"  ended after {done} of {height} rows, as --rows asks")
    grown, took = turns.mebibytes("VmHWM") - before, time.perf_counter() - start
    precision = str(next(fast.backbone.parameters()).dtype).removeprefix("torch.")
    return {"rows_done": done, "grown": grown, "seconds": took, "precision": precision}


def large_words(part: dict[str, Any]) -> str:
    """One line."""
    height, width = part["size"].split("x")
    rows = "all rows" if part["rows_done"] == int(height) else f"the first {part['rows_done']} rows ALONE"
    return (
        f"\nResNeSt-{part['variant']}, {width}x{height} pixels, {part['precision']}, {rows}: "
        f"{part['grown'] / 1024:.2f} GiB over network and image, {part['seconds']:.0f} s; {part['machine']}"
    )


def pipeline(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds an image of a folder and a video through reading, network and writing, and of the network."""
    images = [np.roll(inference_sides.scene(size_of(given)), 40 * i, 1) for i in range(given.images)]
    colors = [(k, 255 - k, 2 * k % 256) for k in range(inference_sides.CLASSES)]
    table = LabelMap("noise", tuple(Entry(k, str(k), color) for k, color in enumerate(colors)))
    trained = LoadedModel(inference_sides.network(given.variant), table)
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
        taken: dict[str, list[float]] = {name: [] for name in ways}
        begun = time.perf_counter()
        for turn in range(given.rounds + 1):  # the first warms up
            spent = time.perf_counter() - begun
            if turn > 1 and spent * (turn + 1) / turn > 60 * given.minutes:
                break
            for name, way in ways.items():
                start = time.perf_counter()
                way(folder / str(turn))
                taken[name].append((time.perf_counter() - start) / len(images))
                turns.log_message(
                    f"  round {turn} of {given.rounds}, {name}: {taken[name][-1]:.3f} s an image"
                )
    return {"rows": {name: statistics.median(each[1:]) for name, each in taken.items()}}


def pipeline_table(part: dict[str, Any]) -> str:
    """Markdown."""
    lines = [f"\nResNeSt-{part['variant']}, {part['size']}, precision=auto, wall time; {part['machine']}\n"]
    lines += ["| way | s an image | of the network's speed |", "|---|---|---|"]
    alone = part["rows"]["network"]
    lines += [f"| {name} | {taken:.3f} | {alone / taken:.0%} |" for name, taken in part["rows"].items()]
    return "\n".join(lines)


def size_of(given: argparse.Namespace) -> tuple[int, int]:
    """Height and width of ``--size``."""
    height, width = (int(part) for part in given.size.split("x"))
    return height, width


def run(given: argparse.Namespace) -> None:
    """Measure, keep and print."""
    torch.set_num_threads(given.threads)
    part = {"what": given.what, "size": given.size, "variant": given.variant, "threads": given.threads}
    part |= {"machine": ceilings.machine(given.threads)}
    part |= large(given) if given.what == "large" else pipeline(given)
    turns.keep(given, part)
    print(large_words(part) if given.what == "large" else pipeline_table(part))
