"""What a training step takes, tried out in a process of its own: ``python -m segkit.training.trial``.

The very network, loss and optimiser take steps on drawn images, a few at a time; nothing of it touches the
run. If the trial has not memory enough, it ends alone.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from segkit import components
from segkit.models import segmenter
from segkit.models.network import Segmenter
from segkit.system import distributed, memory
from segkit.system.runtime import Runtime
from segkit.training import keeping
from segkit.training.run import begin, train_step
from segkit.training.schedule import Schedule
from segkit.types import Batch, id_type

STEPS = 2  # the second has the optimiser's momenta beside everything else
OF_OTHERS = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


class Asked(NamedTuple):
    """What is to be tried."""

    settings: dict[str, Any]  # of the command ``train``
    num_classes: int
    device: str
    images: tuple[int, ...]  # of each part of a step, rising; each size is tried apart
    parts: int  # of a step
    checkpoint: tuple[str, ...]
    several: bool  # processes share statistics and gradients


class Told(NamedTuple):
    """What a trial found."""

    stages: list[str]  # of the backbone, that can be run again
    bytes: list[int]  # that a process takes for its steps at most, of each size; fewer where memory ended
    said: str  # its last words, if it failed


def tried(asked: Asked) -> Told:
    """Run a trial, each size in a process of its own; they end before this returns.

    One after the other in one process, the holes that the small sizes left would count for the larger ones.
    """
    found = Told([], [], "")
    for images in asked.images:
        one = _tried_alone(asked, images)
        found = Told(one.stages or found.stages, found.bytes + one.bytes, one.said)
        if not one.bytes:
            break
    return found


def _tried_alone(asked: Asked, images: int) -> Told:
    environment = {key: value for key, value in os.environ.items() if key not in OF_OTHERS}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    done = subprocess.run(
        [sys.executable, "-m", "segkit.training.trial"],
        input=pickle.dumps((tuple(asked), images)),
        capture_output=True,
        env=environment,
        check=False,
    )
    lines = done.stdout.decode(errors="replace").splitlines()
    found = [json.loads(line)["trial"] for line in lines if line.startswith('{"trial"')]
    said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] if done.returncode else []
    stages = found[0]["stages"] if found else []
    return Told(stages, [line["bytes"] for line in found[1:]], "".join(said))


def _steps(asked: Asked, images: int) -> Iterator[dict[str, Any]]:
    device = torch.device(asked.device)
    base = memory.held() if device.type == "cpu" else 0
    model = segmenter.build(asked.num_classes, **segmenter.unloaded(asked.settings["model"]))
    yield {"stages": keeping.stages_of(model)}
    given = asked.settings["schedule"] | {"batch_size": asked.parts, "accumulate": asked.parts}
    given |= {"epochs": None, "iterations": 10**6}  # however short the run is
    runtime = asked.settings["runtime"] | {"checkpoint": asked.checkpoint, "memory": None}
    run = begin(
        model,
        components.build("losses", asked.settings["loss"], num_classes=asked.num_classes),
        samples=10**6,
        schedule=replace(Schedule(**given), lr=1e-9),  # the weights are of no use; let them stay finite
        runtime=Runtime(**runtime),
        device=device,
        seed=0,
    )
    batches = [_batch(model, images, asked) for _ in range(asked.parts)]
    for _ in range(STEPS):
        train_step(run, batches)
    yield {"bytes": memory.peak(device) - base}


def _batch(model: Segmenter, images: int, asked: Asked) -> Batch:
    """Noise, and labels of all classes."""
    crop = asked.settings["augment"]["crop_size"] or asked.settings["sizes"]["crop"]
    height, width = (crop, crop) if isinstance(crop, int) else crop
    image = torch.randint(0, 256, (images, model.in_channels, height, width), dtype=torch.uint8)
    kind = getattr(torch, id_type(asked.num_classes))
    label = torch.randint(0, asked.num_classes, (images, height, width)).to(kind)
    return Batch(image, label, [""] * images)


def main() -> None:
    """Tell a line for each size that was tried."""
    fields, images = pickle.load(sys.stdin.buffer)
    asked = Asked(*fields)
    components.use_plugins(asked.settings["plugins"])
    with distributed.alone(joined=asked.several):
        for line in _steps(asked, images):
            sys.stdout.write(json.dumps({"trial": line}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
