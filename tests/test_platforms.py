"""Where there is no Linux, and on devices that lack what a CPU has."""

import os
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conftest import ROOT, run_command
from runs import SMALL
from segkit import training
from segkit.config import registry
from segkit.config.compose import compose_settings
from segkit.runtime import precision
from segkit.types import Batch

pytestmark = pytest.mark.medium

LIKE_MACOS = """
import builtins, io, multiprocessing, os, signal, sys

LINUX_ALONE = {
    os: "sched_getaffinity sched_setaffinity sched_getscheduler posix_fadvise posix_fallocate memfd_create "
    "eventfd getrandom pidfd_open splice copy_file_range setresuid getresuid setns unshare",
    signal: "sigtimedwait sigwaitinfo pidfd_send_signal",
}
for module, names in LINUX_ALONE.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
opened = builtins.open


def without_proc(file, *more, **how):
    if isinstance(file, (str, os.PathLike)) and os.fspath(file).startswith(("/proc", "/sys/")):
        raise FileNotFoundError(2, "there is no such folder here", file)
    return opened(file, *more, **how)


builtins.open = io.open = without_proc

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.path.insert(0, os.environ["CHECKOUT"])
    import train_seg

    train_seg.main()
"""


@pytest.mark.slow
def test_training_runs_without_linux_specific_functions(tmp_path):
    (tmp_path / "like_macos.py").write_text(LIKE_MACOS)
    rest = "schedule.iterations=2 augment.blur=0.5 loader.workers=1 run_name=a device=cpu"  # blur is pickled
    words = [sys.executable, "like_macos.py", *SMALL, *rest.split()]
    environment = os.environ | {"CHECKOUT": str(ROOT)}
    found = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "Traceback" not in found.stderr
    assert "mIoU" in found.stdout
    assert (tmp_path / "runs/a/best.pt").exists()


LIKE_WINDOWS = """
import builtins, importlib, pkgutil

POSIX = "fcntl grp posix pwd resource syslog termios tty pty".split()
original = builtins.__import__


def without_posix(name, namespace=None, *more, **keywords):
    if name in POSIX and (namespace or {}).get("__name__", "").startswith("segkit"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return original(name, namespace, *more, **keywords)


builtins.__import__ = without_posix
import segkit

names = [module.name for module in pkgutil.walk_packages(segkit.__path__, "segkit.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_every_module_imports_without_posix_modules():
    assert int(run_command("-c", LIKE_WINDOWS).stdout) > 100


class NoFloat64(TorchDispatchMode):
    """As a device that has no float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        wide = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.dtype == torch.float64]
        assert not wide, f"{function} gives float64"
        return out


@pytest.mark.parametrize("loss", registry.available("losses"))
def test_training_step_needs_no_float64(loss, monkeypatch):
    """Apple's GPUs have none; ``widest_float`` is the one place that knows."""
    assert precision.widest_float_dtype(torch.device("mps")) == torch.float32
    assert precision.widest_float_dtype(torch.device("cpu")) == torch.float64
    monkeypatch.setattr(precision, "widest_float_dtype", lambda _: torch.float32)
    choice = "ce_dice" if loss == "mixed" else loss
    settings = compose_settings("train", [*SMALL, f"loss={choice}", "schedule.batch_size=2"])
    data = registry.build("data.datasets", settings["data"], split="train")
    run = training.build_training(settings, data, torch.device("cpu"), val_set=data)
    label = torch.randint(0, 10, (2, 32, 32), dtype=torch.uint8)
    batch = Batch(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), label, ["a", "b"])
    with NoFloat64():
        step = training.train_step(run, [batch])
    assert all(torch.isfinite(value) for value in step.losses.values())
