"""Fixtures and settings of all tests; this file runs before torch is imported."""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from segkit.runtime import environment

settings.register_profile("all", settings.get_profile("default"))  # tests/test_fuzz.py
environment.set_thread_env(training=True)  # as the command does

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores are shared out to the workers
    gc.disable()  # until the tests are imported

ROOT = Path(__file__).parent.parent


def pytest_collection_finish() -> None:
    """Let garbage collections look only at objects that tests create."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)  # packages report leaks otherwise


def write_image(file: Path, array: np.ndarray) -> None:
    """Write an array as an image, below folders that are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


def write_folder(root: Path, names: Iterable[str], classes: Iterable[str], size: tuple[int, int]) -> Path:
    """Write images of noise with masks of random classes, and their class table, for ``data=folder``."""
    draw, classes = np.random.default_rng(5), [*classes]
    for name in names:
        write_image(root / f"images/{name}.png", draw.integers(0, 256, (*size, 3), np.uint8))
        mask = draw.integers(0, len(classes), size, np.uint8 if len(classes) < 256 else np.uint16)
        write_image(root / f"masks/{name}.png", mask)
    lines = [f"{k},{name}" for k, name in enumerate(classes)]
    (root / "classes.csv").write_text("\n".join(["id,name", *lines]))
    return root


def run_command(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run one of the commands as a user does, and see that it ends as it should."""
    words = [sys.executable, *(str(argument) for argument in arguments)]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == status, (
        f"{words} ended with {found.returncode}\n{found.stdout}\n{found.stderr}"
    )
    return found


def run_main(command: str, *arguments: object) -> int:
    """Run a command in this process, which is faster than a new one, and return its exit status."""
    handlers, level = [*logging.root.handlers], logging.root.level
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        patch.setattr(sys, "argv", [command, *(str(argument) for argument in arguments)])
        try:
            importlib.import_module(command).main()
        except SystemExit as end:
            return int(end.code or 0)
        finally:  # Hydra's --info changes both
            logging.root.handlers[:] = handlers
            logging.root.setLevel(level)
    return 0


def run_script(name: str, *arguments: object, status: int = 0) -> str:
    """Run a script of ``datasets/`` in this process and return what it prints."""
    printed, ended = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
        patch.syspath_prepend(ROOT / "datasets")
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        try:
            importlib.import_module(name).script.run()
        except SystemExit as end:
            ended = int(end.code or 0)
    assert ended == status, printed.getvalue()
    return printed.getvalue()


@pytest.fixture
def run_here() -> Callable[..., int]:
    """``run_here("test_seg", ...)`` runs a command in this process and returns its exit status."""
    return run_main


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps on scenes of 32x32, 10 classes, with a moving average; read only."""
    runs = tmp_path_factory.mktemp("runs")
    sizes = "data.size=32 data.val_scenes=6 augment.crop_size=32 model.backbone.width=8 model.head.width=16"
    length = "schedule.iterations=4 schedule.batch_size=4 schedule.ema=0.5"
    length += " schedule.lr_schedule.warmup_iterations=0"
    rest = f"run_dir={runs} run_name=tiny evaluation.every=4 loader.workers=0"
    assert run_main("train_seg", "experiment=demo", *f"{sizes} {length} {rest}".split()) == 0
    return runs / "tiny"
