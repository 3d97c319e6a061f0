"""What a command imports before its first result: start-up time is import time."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segkit.system.runtime import Runtime

ROOT = Path(__file__).parent.parent
WATCHED = (
    "torch",
    "torchvision",
    "albumentations",
    "scipy",
    "sympy",
    "onnx",
    "pandas",
    "timm",
    "cv2",
    "hydra",
)
TELL = f"""
import atexit, sys, runpy
watched = {WATCHED} + ("torch._dynamo", "torch._inductor", "tensorboard", "sklearn", "matplotlib")
atexit.register(lambda: print("imported:", *(name for name in watched if name in sys.modules)))
sys.argv = sys.argv[1:]
sys.path.insert(0, ".")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def imported(*command):
    """The watched libraries that a command has imported by its end."""
    words = [sys.executable, "-c", TELL, *map(str, command)]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    return set(found.stdout.splitlines()[-1].removeprefix("imported:").split())


@pytest.mark.parametrize("command", ["train_seg.py", "test_seg.py", "predict_seg.py"])
def test_help_imports_what_composes_the_settings_and_nothing_that_computes(command):
    assert imported(command, "--help") == {"hydra"}


def test_a_refused_setting_imports_nothing_that_computes():
    assert imported("train_seg.py", "schedule.lr=quick") == {"hydra"}


def test_methods_that_are_spared_the_compiler_get_it_back():
    plain = torch.optim.Optimizer.zero_grad.__wrapped__
    before = dict(vars(plain))
    try:
        Runtime().apply()
        assert vars(plain)["__dynamo_disable"] in (plain, before.get("__dynamo_disable"))
        Runtime(compile=True).apply()
        assert vars(plain).get("__dynamo_disable") is not plain
    finally:
        vars(plain).update(before)
