"""Run folders and the files in them: whole or absent, read without running code.

A checkpoint is a dictionary of tensors and plain Python: the training's state, the composed settings and the
class table, so that a model can be rebuilt from the file alone.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segkit.config import PositiveFloat, PositiveInt
from segkit.config.dotted import flat
from segkit.data.label_map import LabelMap
from segkit.licenses import build_ledger
from segkit.models.published import resolve_weights
from segkit.runtime import distributed, files, model_file, run_folder
from segkit.types import ClassTable

FORMAT = 1
LOG = logging.getLogger("segkit")


@dataclass(frozen=True)
class CheckpointConfig:
    """When to write checkpoints and how many to keep; ``best.pt`` and the newest are always kept."""

    every: PositiveInt | None = None  # optimizer steps
    minutes: PositiveFloat | None = 10.0
    keep: PositiveInt = 2
    metric: str = "mIoU"  # by which ``best.pt`` is chosen


class Checkpoints:
    """The checkpoints of one run: the one to resume from, when the next is due, and what each contains.

    Args:
        folder: ``runs/NAME``.
        keeping: of the settings.
        about: carried by every checkpoint: the composed ``settings``, the class table, ``classes``, and the
            license ledger, ``licenses``.
    """

    def __init__(self, folder: Path, keeping: CheckpointConfig, about: dict[str, Any]) -> None:
        self.folder, self.keeping, self.about = folder, keeping, about
        self.saved_at, self.saved_iteration = time.monotonic(), 0

    @classmethod
    def from_settings(cls, settings: dict[str, Any], folder: Path, table: ClassTable) -> Checkpoints:
        """Return those of a run with its composed settings, stored whole, on the classes of its data."""
        licenses = read_ledger(settings, folder)
        about = {"settings": settings, "classes": table.to_plain(), "licenses": licenses}
        return cls(folder, CheckpointConfig(**settings["checkpoint"]), about)

    def resumed(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that can be read, None for a new run; the main process decides.

        Raises:
            ValueError: none of them can be read, or its classes are others.
        """
        path = distributed.decide_on_main(lambda: newest(self.folder))
        if path is None:
            return None
        found = read_checkpoint(path)
        compare(found, self.about)
        self.saved_iteration = found["iteration"]
        return found

    def due(self, iteration: int) -> bool:
        """Return whether it is time, by iterations since the last checkpoint or by the clock."""
        every, minutes = self.keeping.every, self.keeping.minutes
        by_clock = minutes is not None and time.monotonic() - self.saved_at > 60 * minutes
        return by_clock or (every is not None and iteration // every > self.saved_iteration // every)

    def save(self, state: dict[str, Any]) -> None:
        """Write ``iteration_N.pt``, let ``last.pt`` be the same file, and remove all but the last few.

        Files of later iterations are damaged, or the run would have continued from them; they go first.
        """
        self.saved_at, self.saved_iteration = time.monotonic(), state["iteration"]
        if not distributed.is_main():
            return
        path = self.folder / f"iteration_{state['iteration']:07d}.pt"
        write(path, {**self.about, **state})
        _alias(path, self.folder / "last.pt")
        found = run_folder.checkpoints_in(self.folder)
        kept = [file for file in found if run_folder.iteration_of(file) <= state["iteration"]][
            : self.keeping.keep
        ]
        for file in found:
            if file not in kept:
                file.unlink(missing_ok=True)

    def save_best(self, iteration: int, weights: dict[str, Any], scores: dict[str, float]) -> None:
        """Write ``best.pt``: the weights that were scored, and their scores."""
        if distributed.is_main():
            content = {"iteration": iteration, "model": weights, "scores": scores}
            write(self.folder / "best.pt", {**self.about, **content})


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings of the newest checkpoint of a run that can be read, None for a new run."""
    for file in run_folder.checkpoints_in(folder):
        with contextlib.suppress(ValueError):  # whoever opens the run tells of damaged ones
            return read_checkpoint(file, mapped=True)["settings"]
    return None


def read_ledger(settings: dict[str, Any], folder: Path) -> dict[str, str]:
    """Return the license ledger of a run: its stored one, or a new one that continues ``model.weights``."""
    for file in run_folder.checkpoints_in(folder):
        with contextlib.suppress(ValueError):
            if stored := read_checkpoint(file, mapped=True).get("licenses"):
                return stored
    return start_ledger(settings)


def start_ledger(settings: dict[str, Any]) -> dict[str, str]:
    """Return the license ledger of a new training, which continues that of ``model.weights``."""
    before = None
    if weights := settings["model"].get("weights"):
        with contextlib.suppress(ValueError, OSError):  # not a checkpoint of segkit
            before = read_checkpoint(weights, mapped=True).get("licenses")
    return build_ledger(settings, before)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        OSError: there is no room, or no right to write; what was there before stays as it was.
    """
    try:
        with files.atomic_write(path) as file:
            torch.save({"format": FORMAT, **content}, file)
    except (OSError, RuntimeError) as error:  # torch may tell of a full disk with a RuntimeError
        raise _explain_failed_write(path, error) from error


def _explain_failed_write(path: Path, error: Exception) -> OSError:
    cause = error if isinstance(error, OSError) else error.__context__ or error
    reason = getattr(cause, "strerror", None) or cause
    return OSError(
        f"{path} could not be written ({reason}): make room in {path.parent} or clear its fault, then go"
        " on with resume=true from the checkpoint before it, which is whole"
    )


def _alias(path: Path, name: Path) -> None:
    """Give a file another name at once; a copy where the file system has no hard links.

    Raises:
        OSError: there is no room, or no right to write.
    """
    temporary = name.with_name(name.name + ".part")
    try:
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(path)
        except OSError:
            shutil.copyfile(path, temporary)
        temporary.replace(name)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _explain_failed_write(name, error) from error


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run that can be read; damaged ones are reported.

    Raises:
        ValueError: there are checkpoints, and none can be read.
    """
    candidates = run_folder.checkpoints_in(folder)
    for file in candidates:
        try:
            read_checkpoint(file)
        except ValueError as error:
            LOG.warning("%s; falling back to the checkpoint before it", error)
        else:
            return file
    if candidates:
        raise ValueError(
            f"none of the {len(candidates)} checkpoints in {folder} can be read; start a new run_name"
        )
    return None


def read_checkpoint(path: str | Path, *, mapped: bool = False) -> dict[str, Any]:
    """Return a checkpoint of segkit, on the CPU, read without running any code in it.

    Args:
        path: of the file, of a folder that was made to share it, or an address ``hf://user/name``.
        mapped: leave the values of tensors on the disk until they are used.

    Raises:
        ValueError: the file is missing, damaged, holds code, or is not a checkpoint of segkit.
        OSError: an address could not be reached.
    """
    path = model_file.resolve_checkpoint(path)
    if path.suffix == ".safetensors":
        tensors, about = model_file.read_model_file(path)
        content: Any = {**about, "model": tensors}
    else:
        content = files.read_tensors(path, mapped=mapped)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(
            f"{path}: not a checkpoint of segkit; weights of other projects load with model.weights={path}"
        )
    parts = {"iteration": int, "settings": dict, "classes": dict, "model": dict}
    wrong = [name for name, kind in parts.items() if not isinstance(content.get(name), kind)]
    optional = ("average", "licenses")
    wrong += [name for name in optional if not isinstance(content.get(name), dict | None)]
    sections = ((name, content["settings"].get(name, {})) for name in ("data", "model", "sizes") if not wrong)
    wrong += [f"settings.{name}" for name, section in sections if not isinstance(section, dict)]
    if wrong:
        raise ValueError(f"{path}: a checkpoint with no proper {', '.join(wrong)}; it was not made by a run")
    return content


def compare(saved: dict[str, Any], about: dict[str, Any]) -> None:
    """Report how the settings differ from those that a checkpoint was made with.

    Raises:
        ValueError: its classes are others.
    """
    if saved["classes"] != about["classes"]:
        _check_classes(*(LabelMap.from_plain(each["classes"]) for each in (saved, about)))
    if (changed := differences(saved["settings"], about["settings"])) and distributed.is_main():
        LOG.warning("going on with other settings than the run had: %s", ", ".join(changed))


def _check_classes(before: LabelMap, now: LabelMap) -> None:
    """Check that two tables have the same classes; what is ignored may differ."""
    if [entry[:3] for entry in before.classes] != [entry[:3] for entry in now.classes]:
        raise ValueError(
            "the checkpoint is of other classes than this data set has: "
            f"{before.describe()} in the checkpoint, {now.describe()} in the data. Resume with the names, "
            "ids, colors and order as they were, or begin a new run_name=... (model.weights=FILE starts "
            "from a checkpoint; classes are matched by name)"
        )


def class_names(source: str) -> list[str] | None:
    """Return the classes that a file of weights names, as checkpoints of segkit do; None for others."""
    with contextlib.suppress(ValueError):
        return LabelMap.from_plain(read_checkpoint(resolve_weights(source), mapped=True)["classes"]).names
    return None


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the settings that changed on resume, such as ``schedule.lr=0.1 (was 0.01)``."""
    free = ("resume", "run_name", "run_dir", "device", "summary", "profile", "lr_finder")
    old, new = flat(before), flat(now)
    changed = [key for key in new if key not in free and new[key] != old.get(key)]
    return [f"{key}={new[key]} (was {old.get(key)})" for key in changed]
