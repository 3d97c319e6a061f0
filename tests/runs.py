"""Whole training runs for the tests of faults: real commands in processes that can be killed.

The processes are forked from one that has imported everything, so that a run costs what it computes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pkgutil
import signal
import socket
import sys
import time
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parent.parent
SMALL = [
    *("data=shapes", "data.size=32", "data.train_scenes=20", "data.val_scenes=2", "augment.crop_size=32"),
    *("model=deeplabv3_demo", "model.backbone.width=8", "model.head.width=8", "model/auxiliary=none"),
    *("model.head.dropout=0", "model.head.aspp_dropout=0", "model.backbone.output_stride=32"),
    *("schedule.epochs=null", "schedule.iterations=10", "schedule.batch_size=4", "schedule.lr=0.05"),
    *("evaluation.every=4", "checkpoint.every=3", "checkpoint.minutes=null", "loader.workers=0"),
]
IMPORTED = ["train_seg", "segkit.monitor", "segkit.training.validation", "segkit.data.transforms"]
IMPORTED += ["segkit.data.loaders", "segkit.losses.cross_entropy", "segkit.models.heads.deeplabv3"]
IMPORTED += ["segkit.models.backbones.resnest", "segkit.data.datasets.shapes", "torch._dynamo"]
IMPORTED += ["torch.utils.tensorboard", "segkit.training.lr_schedules.poly", "segkit.training.optimizers.sgd"]

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(IMPORTED)


class Run:
    """One run, or one rank of it, going on in another process."""

    def __init__(self, folder, *settings, before=None, environment=None, output=None, small=SMALL):
        self.folder, self.output = Path(folder), Path(output or f"{folder}.{time.monotonic_ns()}.output")
        self.output.parent.mkdir(parents=True, exist_ok=True)
        where = [f"run_dir={self.folder.parent}", f"run_name={self.folder.name}"]
        arguments = (["train_seg.py", *small, *settings, *where], self.output, before, environment or {})
        self.process = processes.Process(target=_train, args=arguments)
        self.process.start()

    def ends(self, seconds=120):
        """Its exit status, that of a signal as a negative number."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {seconds} s: {self.said}")
        return self.process.exitcode

    def completes(self, seconds=120):
        assert self.ends(seconds) == 0, self.said
        return self.folder

    def send(self, number):
        os.kill(self.process.pid, number)

    @property
    def said(self):
        return self.output.read_text()

    def waits_for(self, something, seconds=60):
        """Until ``something()`` is true."""
        until = time.monotonic() + seconds
        while not something():
            assert self.process.is_alive(), self.said
            assert time.monotonic() < until, self.said
            time.sleep(0.005)


def _train(argv, output, before, environment):
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers, as without us
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.setpgrp()
    torch.set_num_threads(1)
    sys.argv = argv
    import train_seg

    if before is not None:
        before()
    train_seg.main()


def ranks(count, folder, *settings, before=None):
    """A run in several processes, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environments = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [Run(folder, *settings, before=before, environment=e) for e in environments]


class Act:
    """Do something just before the n-th call of a function, in the process of one rank."""

    def __init__(self, function, call, act, *, rank="0"):
        self.function, self.call, self.act, self.rank = function, call, act, rank

    def __call__(self):
        if os.environ.get("RANK", "0") != self.rank:
            return
        owner, _, name = self.function.rpartition(".")
        owner = pkgutil.resolve_name(owner)
        original, calls = getattr(owner, name), 0

        def counted(*args, **keywords):
            nonlocal calls
            calls += 1
            if calls == self.call:
                self.act()
            return original(*args, **keywords)

        setattr(owner, name, counted)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class KillAt(Act):
    """SIGKILL this process just before its n-th call of a function."""

    def __init__(self, function, call, *, rank="0"):
        super().__init__(function, call, die, rank=rank)


def scalars(folder):
    """Every point of every curve that does not tell of the machine's speed, as TensorBoard shows it."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("wall/")]
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


def assert_same(first, second, *, ignore=("settings",), path=""):
    """Two trees of dictionaries, lists, values and tensors are equal to the bit."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first.keys() - set(ignore):
            assert_same(first[key], second[key], ignore=ignore, path=f"{path}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), path
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same(a, b, ignore=ignore, path=f"{path}[{index}]")
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, path
        assert torch.equal(first, second), path
    else:
        assert first == second, path


def assert_same_end(first, second):
    """Weights, optimizer, average, scores and curves of two finished runs are equal to the bit."""
    for name in ("last.pt", "best.pt"):
        a, b = (torch.load(folder / name, weights_only=True) for folder in (first, second))
        assert_same(a, b)
    assert scalars(first) == scalars(second)
    assert (first / "result.json").read_text() == (second / "result.json").read_text()
    names = [sorted(file.name for file in folder.glob("*.pt")) for folder in (first, second)]
    assert names[0] == names[1]


def newest(folder):
    """The iteration of the newest checkpoint, 0 without."""
    found = sorted(folder.glob("iteration_*.pt"))
    return int(found[-1].stem.split("_")[1]) if found else 0


def alive(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
