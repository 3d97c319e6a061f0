"""Trainings of tests: without data in this process, or as commands in processes that tests can kill.

The processes are forked from one that has imported everything, so that a run starts at once.
"""

from __future__ import annotations

import contextlib
import gc
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

SMALL = [
    *("data=shapes", "data.size=32", "data.train_scenes=20", "data.val_scenes=2", "augment.crop_size=32"),
    *("model=deeplabv3_demo", "model.backbone.width=8", "model.head.width=8", "model/auxiliary=none"),
    *("model.head.dropout=0", "model.head.aspp_dropout=0", "model.backbone.output_stride=32"),
    *("schedule.epochs=null", "schedule.iterations=10", "schedule.batch_size=4", "schedule.lr=0.05"),
    *("evaluation.every=4", "checkpoint.every=3", "checkpoint.minutes=null", "loader.workers=0"),
]
TIMM = [
    *("data=shapes", "data.size=32", "data.train_scenes=8", "data.val_scenes=2", "augment.crop_size=32"),
    *("model=deeplabv3_demo", "model/backbone=timm", "model.head.width=8", "loader.workers=0"),
    *("schedule.epochs=null", "schedule.iterations=2", "schedule.batch_size=4", "evaluation.every=2"),
]
TINY = "model=deeplabv3_demo model.backbone.width=8 model.head.width=8 model/auxiliary=none loader.workers=0"
IMPORTED = ["train_seg", "segkit.monitor", "segkit.training.validation", "segkit.data.transforms"]
IMPORTED += ["segkit.data.loaders", "segkit.losses.cross_entropy", "segkit.models.heads.deeplabv3"]
IMPORTED += ["segkit.models.backbones.resnest", "segkit.data.datasets.shapes", "torch.utils.tensorboard"]
IMPORTED += ["segkit.training.lr_schedules.poly", "segkit.training.optimizers.sgd", "tests.warm_parser"]
IMPORTED += [EventAccumulator.__module__, "torch._dynamo"]  # the latter by each of several processes

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(IMPORTED)


def make_schedule(**changed):
    """Return a schedule of ten iterations."""
    from segkit import training

    rule = {"optimizer": {"name": "sgd"}, "lr_schedule": {"name": "poly"}, "iterations": 10}
    return training.Schedule(**{"batch_size": 4, "lr": 0.01, **rule, **changed})


def start_run(model, loss=None, *, samples=8, device="cpu", runtime=(), **schedule):
    """Set up a training of a model with three classes, without data."""
    from segkit import training
    from segkit.losses import cross_entropy

    return training.setup_training(
        model,
        loss or cross_entropy.build(3),
        samples=samples,
        schedule=make_schedule(**schedule),
        runtime=training.Runtime(**dict(runtime)),
        device=torch.device(device),
        seed=1,
    )


class Run:
    """A training command, or one rank of it, in another process."""

    def __init__(self, folder, *settings, before=None, environment=None, output=None, small=SMALL):
        self.folder = Path(folder)
        self.output_file = Path(output or f"{folder}.{time.monotonic_ns()}.output")
        self.output_file.parent.mkdir(parents=True, exist_ok=True)
        names = [f"run_dir={self.folder.parent}", f"run_name={self.folder.name}"]
        arguments = ["train_seg.py", *small, *settings, *names]
        self.process = processes.Process(
            target=_train, args=(arguments, self.output_file, before, environment or {})
        )
        self.process.start()

    def exit_status(self, seconds=120):
        """Wait for the end; a signal is a negative number."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {seconds} s: {self.output}")
        return self.process.exitcode

    def complete(self, seconds=120):
        """Wait for a successful end and return the run folder."""
        assert self.exit_status(seconds) == 0, self.output
        return self.folder

    @property
    def output(self):
        return self.output_file.read_text()


def _train(argv, output, before, environment):
    gc.freeze()  # garbage collections then skip all that was imported
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # for the loader's workers, as usual
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
    """Start a run in several processes, as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environments = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [Run(folder, *settings, before=before, environment=e) for e in environments]


class CallBefore:
    """Call ``act`` just before the n-th call of a function, in the process of one rank."""

    def __init__(self, function, call, act, *, rank="0"):
        self.function, self.call, self.act, self.rank = function, call, act, rank

    def __call__(self):
        if os.environ.get("RANK", "0") != self.rank:
            return
        owner, _, name = self.function.rpartition(".")
        owner = pkgutil.resolve_name(owner)
        original, calls = getattr(owner, name), 0

        def count_calls(*args, **keywords):
            nonlocal calls
            calls += 1
            if calls == self.call:
                self.act()
            return original(*args, **keywords)

        setattr(owner, name, count_calls)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


class KillAt(CallBefore):
    """Kill this process (SIGKILL) just before its n-th call of a function."""

    def __init__(self, function, call, *, rank="0"):
        super().__init__(function, call, die, rank=rank)


def read_curves(folder):
    """Return the points of all curves but those of speed and memory, as TensorBoard shows them."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("wall/")]
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


def assert_same(first, second, *, ignore=("settings",), path=""):
    """Check that two trees of dictionaries, lists, values and tensors are bit-equal."""
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
    """Check that weights, optimizer, average, scores and curves of two finished runs are bit-equal."""
    for name in ("last.pt", "best.pt"):
        a, b = (torch.load(folder / name, weights_only=True) for folder in (first, second))
        assert_same(a, b)
    assert read_curves(first) == read_curves(second)
    assert (first / "result.json").read_text() == (second / "result.json").read_text()
    names = [sorted(file.name for file in folder.glob("*.pt")) for folder in (first, second)]
    assert names[0] == names[1]


def newest_iteration(folder):
    """Return the iteration of the newest checkpoint, 0 without any."""
    checkpoints = sorted(folder.glob("iteration_*.pt"))
    return int(checkpoints[-1].stem.split("_")[1]) if checkpoints else 0


def is_alive(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
