"""``runtime.memory``: a step's parts, and what it computes again, so that it fits the memory there is.

Before the first step the very network takes steps of a few images in a process of its own
(``segkit.training.trial``). What a process takes is then a line, ``fixed + images * each``, one for each way
of computing; the choice is the first way that fits:

* with batch normalisation, first what changes nothing: more stages run again (``runtime.checkpoint``), then
  more parts (``schedule.accumulate``), each of which is normalised by its own statistics;
* with frozen statistics, or none, first more parts, which then cost least and change nothing either.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from segkit.system import distributed, memory
from segkit.system.failures import is_out_of_memory
from segkit.training import trial
from segkit.training.run import Training

GIB = 2**30
SMALL = (2, 4)  # images of a part in a trial; one alone has no statistics
MARGIN = 1.1  # over what is predicted; the line is some hundredths off, and a run holds more than a trial
SHARE = {"cpu": 0.8, "cuda": 0.92, "mps": 0.8}  # of what is free: the rest is for loaders, or lost to holes
MANY = 2  # parts; more take no more memory

Settings = Mapping[str, Any]


class Way(NamedTuple):
    """How a step is computed."""

    accumulate: int
    checkpoint: tuple[str, ...]
    images: int  # of a part, in one process
    bytes: float  # that it takes in all

    def __str__(self) -> str:
        stages = f"[{','.join(self.checkpoint)}]"
        return f"schedule.accumulate={self.accumulate} runtime.checkpoint={stages}"


class Line(NamedTuple):
    """Bytes that a process takes for steps of so many images, beyond what it held before."""

    fixed: float
    each: float

    def at(self, images: int) -> float:
        """Of parts of so many images."""
        return self.fixed + images * self.each


def fitted(
    settings: dict[str, Any], *, num_classes: int, device: torch.device, before: Settings | None
) -> dict[str, Any]:
    """Settings with what ``runtime.memory`` chooses; a run that goes on keeps what it chose.

    Args:
        settings: of the command ``train``.
        num_classes: of its data.
        device: of this process.
        before: the settings that the run had when it was left, or None for a new one.

    Raises:
        ValueError: nothing fits; the message says what would.
    """
    asked = settings["runtime"]["memory"]
    if asked is None:
        return settings
    if before is not None and before["runtime"].get("memory") == asked:
        return _with(settings, before["schedule"]["accumulate"], before["runtime"]["checkpoint"])
    held = memory.held() if device.type == "cpu" else 0
    room = held + SHARE[device.type] * memory.available(device) if asked == "auto" else asked * GIB
    rooms = distributed.gather((room, held))
    room, held = min(room for room, _ in rooms), max(held for _, held in rooms)
    _say(f"runtime.memory={asked}: measuring some steps of few images, in a process beside this one ...")
    trials = _Trials(settings, num_classes=num_classes, device=device)
    way = distributed.decide_on_main(lambda: trials.choice(room, held=held))
    _say(f"runtime.memory={asked}: {_in_words(way, settings, room)}")
    return _with(settings, way.accumulate, way.checkpoint)


@contextlib.contextmanager
def telling_what_fits(run: Training, settings: Settings) -> Iterator[None]:
    """If memory ends in a training step, note at the error which settings would fit."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if is_out_of_memory(error) and any(frame.name == "train_step" for frame in frames):
            with contextlib.suppress(ValueError):  # where nothing fits, the usual advice stands
                error.add_note(_what_fits(run, settings, error))
        raise


def _what_fits(run: Training, settings: Settings, error: Exception) -> str:
    device, num_classes = run.device, run.model.num_classes
    traceback.clear_frames(error.__traceback__)
    vars(run).clear()  # it is over, and its tensors would be in the way of what is measured
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        room, held = SHARE["cuda"] * memory.available(device), 0
    else:
        room, held = memory.peak(device), memory.held()
    _say("memory ended; measuring what would fit ...")
    way = _Trials(settings, num_classes=num_classes, device=device).choice(room, held=held)
    return f"{way} would fit: a step takes {way.bytes / GIB:.2f} GiB then of the {room / GIB:.2f} there were"


class _Trials:
    """What is known by now of the ways to compute a step of some settings."""

    def __init__(self, settings: Settings, *, num_classes: int, device: torch.device) -> None:
        self.settings, self.num_classes, self.device = settings, num_classes, device
        self.stages: list[str] = []
        self.lines: dict[tuple[tuple[str, ...], int], Line] = {}
        schedule = settings["schedule"]
        self.frozen, self.batch = schedule["freeze_norm"], schedule["batch_size"] // distributed.world_size()

    def choice(self, room: float, *, held: float) -> Way:
        """The first way that fits into so many bytes, of which some are held already.

        Raises:
            ValueError: none does.
        """
        self.line(tuple(self.settings["runtime"]["checkpoint"]), 1)  # tells the stages, too
        least = math.inf
        for parts, checkpoint in self._ways():
            images = self.batch // parts
            taken = held + self.line(checkpoint, min(parts, MANY)).at(images)
            least = min(least, taken)
            if MARGIN * taken <= room:
                return Way(parts, checkpoint, images, taken)
        raise ValueError(self._refusal(room, least))

    def line(self, checkpoint: tuple[str, ...], parts: int) -> Line:
        """Of one way, measured when it is first asked for."""
        if (checkpoint, parts) not in self.lines:
            sizes = tuple(sorted({min(size, self.batch) for size in SMALL}))
            several = distributed.world_size() > 1
            settings, device = dict(self.settings), str(self.device)
            asked = trial.Asked(settings, self.num_classes, device, sizes, parts, checkpoint, several)
            told = trial.tried(asked)
            self.stages = told.stages or self.stages
            self.lines[checkpoint, parts] = _line(sizes, told)
        return self.lines[checkpoint, parts]

    def _ways(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Parts and stages to run again, the dearest last."""
        already = tuple(self.settings["runtime"]["checkpoint"])
        some = [stage for stage in self.stages if stage in already or stage == "layer3"]  # most of the blocks
        levels = list(dict.fromkeys([already, tuple(some), tuple(self.stages)])) if self.stages else [already]
        fewest = self.settings["schedule"]["accumulate"]
        least = 1 if self.frozen else min(SMALL[0], self.batch)
        parts = [n for n in range(fewest, self.batch + 1) if self.batch % n == 0 and self.batch // n >= least]
        if self.frozen:
            return ((n, level) for level, n in itertools.product(levels, parts))
        return itertools.product(parts, levels)

    def _refusal(self, room: float, least: float) -> str:
        asked = self.settings["runtime"]["memory"]
        return (
            f"runtime.memory={asked}: there are {room / GIB:.2f} GiB, and a step takes {least / GIB:.2f} at"
            " least, in parts of the fewest images and with all stages run again: make sizes.crop or"
            " model.backbone.width smaller, or set runtime.precision=bf16 or model.backbone.output_stride=16"
        )


def _line(sizes: tuple[int, ...], told: trial.Told) -> Line:
    """Through what was measured; infinite where memory ended."""
    if len(told.bytes) < len(sizes):
        if told.said and not is_out_of_memory(RuntimeError(told.said)) and "Killed" not in told.said:
            raise ValueError(f"runtime.memory: the trial of a step failed: {told.said}")
        return Line(float("inf"), 0)
    if len(sizes) == 1:
        return Line(0, told.bytes[0] / sizes[0])
    each = max(0.0, (told.bytes[-1] - told.bytes[0]) / (sizes[-1] - sizes[0]))
    return Line(told.bytes[0] - sizes[0] * each, each)


def _with(settings: dict[str, Any], accumulate: int, checkpoint: Any) -> dict[str, Any]:
    schedule = settings["schedule"] | {"accumulate": accumulate}
    return settings | {
        "schedule": schedule,
        "runtime": settings["runtime"] | {"checkpoint": tuple(checkpoint)},
    }


def _in_words(way: Way, settings: Settings, room: float) -> str:
    norms = ", and batch normalisation sees one part at a time" if way.accumulate > 1 else ""
    same = way.accumulate == settings["schedule"]["accumulate"] and list(way.checkpoint) == list(
        settings["runtime"]["checkpoint"]
    )
    why = "the settings fit as they are" if same else "the first that fits"
    taken = f"{way.bytes / GIB:.2f} of {room / GIB:.2f} GiB"
    return f"{way} ({why}): a step takes {taken} with {way.images} images in a part{norms}"


def _say(text: str) -> None:
    if distributed.is_main():
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
