"""Checkpoints of a run: written atomically, read without running code.

A checkpoint is a dictionary of tensors and plain Python: the training state, the composed settings and the
class table, so that a model can be rebuilt from the file alone.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segkit.config import PositiveFloat, PositiveInt
from segkit.config.dotted import flat
from segkit.config.schema import START_KEYS
from segkit.data.label_map import LabelMap
from segkit.licenses import build_ledger
from segkit.models.published import resolve_weights
from segkit.runtime import distributed, files, model_file, run_folder
from segkit.types import ClassTable

FORMAT = 1
LOG = logging.getLogger("segkit")


@dataclass(frozen=True)
class CheckpointConfig:
    """Settings ``checkpoint``: how often to write one, and how many to keep besides ``best.pt``."""

    every: PositiveInt | None = None  # optimizer steps
    minutes: PositiveFloat | None = 10.0
    keep: PositiveInt = 2
    metric: str = "mIoU"  # selects ``best.pt``


class Checkpoints:
    """The checkpoints in a run folder.

    Args:
        folder: ``runs/NAME``.
        config: of the settings.
        about: written to every checkpoint, as ``describe_training`` returns it.
    """

    def __init__(self, folder: Path, config: CheckpointConfig, about: dict[str, Any]) -> None:
        self.folder, self.config, self.about = folder, config, about
        self.saved_at, self.saved_iteration = time.monotonic(), 0

    def load_newest(self) -> dict[str, Any] | None:
        """Return the newest readable checkpoint, chosen by the main process; None for a new run.

        Raises:
            ValueError: none of them can be read, or its classes or seed are others.
        """
        path = distributed.decide_on_main(lambda: find_newest(self.folder))
        if path is None:
            return None
        content = read_checkpoint(path)
        check_saved_settings(content, self.about)
        self.saved_iteration = content["iteration"]
        if content.get("licenses"):  # found when the run started; model.weights may be deleted since
            self.about["licenses"] = content["licenses"]
        return content

    def is_due(self, iteration: int) -> bool:
        """Return whether enough iterations or minutes have passed since the last checkpoint."""
        every, minutes = self.config.every, self.config.minutes
        if minutes is not None and time.monotonic() - self.saved_at > 60 * minutes:
            return True
        return every is not None and iteration // every > self.saved_iteration // every

    def save(self, state: dict[str, Any]) -> None:
        """Write ``iteration_N.pt``, link ``last.pt`` to it, and remove all but the newest few.

        Files of later iterations are damaged, or the run would have resumed from them; they are removed, too.
        """
        iteration = state["iteration"]
        self.saved_at, self.saved_iteration = time.monotonic(), iteration
        if not distributed.is_main():
            return
        path = self.folder / f"iteration_{iteration:07d}.pt"
        write_checkpoint(path, {**self.about, **state})
        _link_as(path, self.folder / "last.pt")
        checkpoints = run_folder.list_checkpoints(self.folder)
        valid = [file for file in checkpoints if run_folder.parse_iteration(file) <= iteration]
        for file in checkpoints:
            if file not in valid[: self.config.keep]:
                file.unlink(missing_ok=True)

    def save_best(self, iteration: int, weights: dict[str, Any], scores: dict[str, float]) -> None:
        """Write ``best.pt``: the validated weights and their scores."""
        if distributed.is_main():
            content = {"iteration": iteration, "model": weights, "scores": scores}
            write_checkpoint(self.folder / "best.pt", {**self.about, **content})


def describe_training(settings: dict[str, Any], table: ClassTable) -> dict[str, Any]:
    """Return what each checkpoint stores about its training: composed settings, classes, license ledger.

    The ledger continues that of ``model.weights``.
    """
    before = None
    if weights := settings["model"].get("weights"):
        with contextlib.suppress(ValueError, OSError):  # not a checkpoint of segkit
            before = read_checkpoint(weights, mapped=True).get("licenses")
    return {"settings": settings, "classes": table.to_plain(), "licenses": build_ledger(settings, before)}


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings stored in the newest readable checkpoint of a run, None without one."""
    for file in run_folder.list_checkpoints(folder):
        with contextlib.suppress(ValueError):  # damaged ones are reported when the run is opened
            return read_checkpoint(file, mapped=True)["settings"]
    return None


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Raises:
        OSError: the disk is full or not writable; an existing file is unchanged.
    """
    with _explain_failure(path), files.atomic_write(path) as file:
        torch.save({"format": FORMAT, **content}, file)


def _link_as(path: Path, name: Path) -> None:
    """Give a file a second name atomically; a copy on file systems without hard links."""
    temporary = name.with_name(name.name + ".part")
    with _explain_failure(name):
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(path)
        except OSError:
            with files.atomic_write(name) as copy, path.open("rb") as source:
                shutil.copyfileobj(source, copy)
        else:
            temporary.replace(name)


@contextlib.contextmanager
def _explain_failure(path: Path) -> Iterator[None]:
    """Raise a failure to write a file as ``OSError`` with its cause and what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch may report a full disk as a RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__
        raise OSError(
            f"{path}: could not be written ({getattr(cause, 'strerror', None) or error}). Make room in"
            f" {path.parent}, then continue with resume=true from the checkpoint before, which is intact."
        ) from error


def find_newest(folder: Path) -> Path | None:
    """Return the newest readable checkpoint of a run, None without any; damaged ones are reported.

    Raises:
        ValueError: there are checkpoints, and none can be read.
    """
    checkpoints = run_folder.list_checkpoints(folder)
    for file in checkpoints:
        try:
            read_checkpoint(file)
        except ValueError as error:
            LOG.warning("%s; trying the checkpoint before it", error)
        else:
            return file
    if checkpoints:
        raise ValueError(
            f"{folder}: none of its {len(checkpoints)} checkpoints can be read. Start a new run_name=..."
        )
    return None


def read_checkpoint(path: str | Path, *, mapped: bool = False) -> dict[str, Any]:
    """Return a checkpoint of segkit on the CPU, read without running code in it.

    Args:
        path: of the file, of a folder made to share it, or an address ``hf://user/name``.
        mapped: leave the values of tensors on disk until they are used.

    Raises:
        ValueError: the file is missing, damaged, contains code, or is not a checkpoint of segkit.
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
    kinds = {"iteration": int, "settings": dict, "classes": dict, "model": dict}
    kinds |= {"average": dict | None, "licenses": dict | None}
    wrong = [name for name, kind in kinds.items() if not isinstance(content.get(name), kind)]
    if not wrong:
        stored = content["settings"]
        names = ("data", "model", "sizes")
        wrong = [f"settings.{name}" for name in names if not isinstance(stored.get(name, {}), dict)]
    if wrong:
        raise ValueError(f"{path}: a checkpoint with no proper {', '.join(wrong)}; no run has written it")
    return content


def check_saved_settings(saved: dict[str, Any], about: dict[str, Any]) -> None:
    """Report how the settings differ from those of a checkpoint to resume from.

    Raises:
        ValueError: its classes (but for the ignored ones) or its seed are others.
    """
    start = "or start a new run_name=... with model.weights=FILE"
    if saved["classes"] != about["classes"]:
        before, now = (LabelMap.from_plain(each["classes"]) for each in (saved, about))
        if [entry[:3] for entry in before.classes] != [entry[:3] for entry in now.classes]:
            raise ValueError(
                f"the classes differ: the checkpoint has {before.describe()}, the data have {now.describe()}."
                f" Resume with the same names, ids, colors and order, {start}, which matches classes by name."
            )
    old, new = saved["settings"], about["settings"]
    if new.get("seed") != old.get("seed"):
        raise ValueError(
            f"seed={new.get('seed')}: the run uses seed={old.get('seed')}, which cannot change on resume."
            f" Leave seed out, {start}."
        )
    changed = list_changed_settings(old, new)
    if changed and distributed.is_main():
        LOG.warning("resuming with changed settings: %s", ", ".join(changed))


def read_class_names(source: str) -> list[str] | None:
    """Return the classes named in a file of weights, as segkit's checkpoints do; None for other files."""
    with contextlib.suppress(ValueError):
        return LabelMap.from_plain(read_checkpoint(resolve_weights(source), mapped=True)["classes"]).names
    return None


def list_changed_settings(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the settings that changed on resume, such as ``schedule.lr=0.1 (was 0.01)``."""
    old, new = flat(before), flat(now)
    changed = [key for key in new if key not in START_KEYS and new[key] != old.get(key)]
    return [f"{key}={new[key]} (was {old.get(key)})" for key in changed]
