"""Training on a CUDA device. The tests also run on the CPU; ``pytest -m gpu`` selects those of the GPU."""

import contextlib
import gc
import importlib.util
import logging
import shutil
import signal

import numpy as np
import pytest
import torch
from test_ranks import CALM, PrintSteps, read_steps
from test_training import batch, split_batch, start_run, weights

from runs import KillAt, Run, assert_same_end, ranks
from segkit import training
from segkit.inference import prepare
from segkit.models import segmenter
from segkit.runtime import distributed
from segkit.types import Batch

pytestmark = pytest.mark.filterwarnings("default")  # torch warns about some devices
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
SLOW_CPU = pytest.param("cpu", marks=pytest.mark.slow)  # test_resume.py and test_ranks.py test a CPU
STEP = "segkit.training.train_step"
STATE = ["schedule.ema=0.9", "schedule.accumulate=2", "model.head.dropout=0.1", "loader.workers=2"]


@pytest.fixture(params=["cpu", CUDA])
def device(request, monkeypatch):
    """Name of a device; convolutions are computed in float32, not in TF32."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return request.param


def take_steps(run, count=3):
    """Return the losses of several steps."""
    found = [training.train_step(run, [batch(seed=seed)]).losses["main"] for seed in range(count)]
    return torch.stack(found).cpu()


@pytest.mark.medium
def test_deterministic_runs_are_bit_equal(device, tmp_path):
    settings = [f"device={device}", "runtime.deterministic=true", "runtime.precision=auto"]
    both = [Run(tmp_path / name, *settings, "model.backbone.width=16") for name in "ab"]
    assert_same_end(*(run.complete() for run in both))


@pytest.mark.medium
@pytest.mark.parametrize("device", [SLOW_CPU, CUDA], indirect=True)
def test_killed_run_ends_bit_equal(device, tmp_path):
    settings = [f"device={device}", "runtime.deterministic=true", "runtime.precision=fp16", *STATE]
    unbroken = Run(tmp_path / "unbroken", *settings)
    for kill in (KillAt(STEP, 2), KillAt(STEP, 6)):  # before the first checkpoint, and after it
        run = Run(tmp_path / "run", *settings, "resume=auto", before=kill)
        assert run.exit_status() == -signal.SIGKILL
    assert_same_end(unbroken.complete(), Run(tmp_path / "run", *settings, "resume=auto").complete())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_losses_in_half_precision_are_close_to_float32(device, precision):
    full, half = start_run(device=device, norm=True), start_run(device=device, norm=True, precision=precision)
    torch.testing.assert_close(take_steps(half), take_steps(full), rtol=0.02, atol=0)


def test_overflow_in_fp16_skips_steps_until_the_scale_fits(device):
    run = start_run(device=device, precision="fp16")
    run.scaler = torch.amp.GradScaler(device, init_scale=2.0**24)
    moved = []
    for seed in range(9):
        before, scale = weights(run).clone(), run.scaler.get_scale()
        training.train_step(run, [batch(seed=seed)])
        moved.append(not torch.equal(before, weights(run)))
        assert run.scaler.get_scale() == (scale if moved[-1] else scale / 2)
    assert run.iteration == 9
    assert not moved[0]
    assert moved[-1]
    assert weights(run).isfinite().all()


class PrintSharedSteps(PrintSteps):
    """Also compute convolutions in float32, and let processes share the only GPU, which NCCL refuses."""

    def __call__(self):
        super().__call__()
        torch.backends.cudnn.allow_tf32 = False
        if torch.cuda.device_count() == 1:
            join = distributed._join
            distributed._join = lambda backend: join("gloo")


@pytest.mark.medium
@pytest.mark.parametrize("device", [SLOW_CPU, CUDA], indirect=True)
def test_synchronized_statistics_are_those_of_the_undivided_batch(device, tmp_path):
    settings = [f"device={device}", *CALM]
    if device == "cuda":  # a CPU does not synchronize
        settings.remove("schedule.freeze_norm=true")
    one = Run(tmp_path / "one", *settings, before=PrintSharedSteps())
    both = ranks(2, tmp_path / "two", *settings, before=PrintSharedSteps())
    for run in (one, *both):
        run.complete()
    assert len(read_steps(one)) == 10
    for run in both:
        np.testing.assert_allclose(read_steps(run), read_steps(one), rtol=1e-3)


@pytest.mark.parametrize("device", [SLOW_CPU, CUDA], indirect=True)
def test_compiled_steps_equal_eager_steps(device):
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("needs a C++ compiler")
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    eager = start_run(device=device, norm=True)
    compiled = start_run(device=device, norm=True, runtime={"compile": True})
    torch.testing.assert_close(take_steps(compiled), take_steps(eager), rtol=1e-4, atol=0)
    torch.testing.assert_close(weights(compiled), weights(eager), rtol=1e-3, atol=1e-5)


def test_channels_last_is_kept_by_the_network_and_changes_only_rounding(device):
    runs = [start_run(device=device, norm=True, runtime={"channels_last": last}) for last in (False, True)]
    kept = []
    for run in runs:
        run.model.backbone.register_forward_hook(
            lambda module, given, found: kept.append(found.is_contiguous(memory_format=torch.channels_last))
        )
    torch.testing.assert_close(*(take_steps(run) for run in runs), rtol=1e-4, atol=0)
    assert kept == [False] * 3 + [True] * 3


def test_prepared_network_is_folded_although_tf32_is_allowed(device, monkeypatch, caplog):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.manual_seed(0)
    backbone = {"name": "resnest", "variant": "14", "width": 8}
    model = segmenter.build(5, backbone=backbone, head={"name": "deeplabv3", "width": 8}).eval().to(device)
    fast = prepare(model)
    assert not caplog.messages
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.modules())
    assert torch.backends.cudnn.allow_tf32


@contextlib.contextmanager
def limited_memory(run, data, settings):
    """Leave memory for half of the batch, but not for all of it."""
    for measure in (True, False):  # what an undivided step takes
        gc.collect()
        torch.cuda.empty_cache()
        if measure:
            torch.cuda.reset_peak_memory_stats()
            training.train_step(start_run(**settings), [data])
    total = torch.cuda.get_device_properties(run.device).total_memory
    torch.cuda.set_per_process_memory_fraction(0.75 * torch.cuda.max_memory_allocated() / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("device", [CUDA], indirect=True)  # test_accumulation.py tests a CPU
def test_step_out_of_memory_is_repeated_in_micro_batches(device, caplog):
    caplog.set_level(logging.WARNING, "segkit")
    small = batch(8)
    data = Batch(small.image.repeat(1, 1, 150, 150), small.label.repeat(1, 150, 150), small.names)  # a GiB
    # without cuDNN's trials, whose workspaces would count as memory
    settings = {"device": device, "norm": True, "batch_size": 8, "runtime": {"deterministic": True}}
    run = start_run(**settings)
    with limited_memory(run, data, settings):
        training.train_step(run, [data])
    assert run.micro_batches in (2, 4)
    assert "iteration 1: out of memory; trying again with schedule.accumulate=2" in caplog.text
    same = start_run(**settings | {"accumulate": run.micro_batches})
    training.train_step(same, split_batch(data, run.micro_batches))
    torch.testing.assert_close(weights(run), weights(same))
