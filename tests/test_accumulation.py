"""``schedule.accumulate=auto``: a batch is divided when memory runs out, and nothing else changes."""

import gc
import logging
import os
import signal
import weakref

import pytest
import torch
from test_training import batch, split_batch, start_run, weights

from runs import KillAt, Run, assert_same_end, ranks
from segkit import checkpoint, training
from segkit.runtime import errors
from segkit.training import accumulation

SETTINGS = ["schedule.batch_size=8", "schedule.ema=0.9"]


class LimitImages:
    """Raise CUDA's error for more than so many images in a forward pass of training."""

    def __init__(self, images, *, rank=None):
        self.images, self.rank = images, rank

    def __call__(self):
        from segkit.models.network import Segmenter

        if self.rank is not None and os.environ["RANK"] != self.rank:
            return
        forward = Segmenter.forward

        def limit_memory(model, image, *args, **keywords):
            logits = forward(model, image, *args, **keywords)  # statistics of the batch have changed by now
            if model.training and len(image) > self.images:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")
            return logits

        Segmenter.forward = limit_memory


class LimitAndKill(LimitImages):
    """Also kill the process at a step after its second checkpoint."""

    def __call__(self):
        super().__call__()
        KillAt("segkit.training.train_step", 8)()


def limit(monkeypatch, run, images):
    """Let the model run out of memory with more than so many images, and return the sizes it met."""
    forward, sizes = run.model.forward, []

    def limit_memory(image):
        sizes.append(len(image))
        logits = forward(image)
        if len(image) > images:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return logits

    monkeypatch.setattr(run.model, "forward", limit_memory)
    return sizes


def test_step_out_of_memory_is_repeated_in_micro_batches(monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "segkit")
    run, same = (start_run(norm=True, dropout=0.5, accumulate=count) for count in ("auto", 2))
    sizes = limit(monkeypatch, run, 2)
    for seed in range(2):
        first = training.train_step(run, [batch(seed=seed)])
        second = training.train_step(same, split_batch(batch(seed=seed), 2))
        assert torch.equal(first.losses["main"], second.losses["main"])
    assert sizes == [4, 2, 2, 2, 2]
    assert torch.equal(weights(run), weights(same))
    for name, buffer in run.model.named_buffers():
        assert torch.equal(buffer, same.model.get_buffer(name)), name
    message = "iteration 1: out of memory; trying again with schedule.accumulate=2 (at most 2 of the 4 images"
    assert message in caplog.text
    assert run.state()["micro_batches"] == 2


def test_odd_batch_is_divided_into_unequal_micro_batches(monkeypatch):
    run, undivided = start_run(batch_size=7), start_run(batch_size=7)
    sizes = limit(monkeypatch, run, 4)
    training.train_step(run, [batch(7)])
    training.train_step(undivided, [batch(7)])
    assert sizes == [7, 4, 3]
    torch.testing.assert_close(weights(run), weights(undivided))


def test_indivisible_batch_ends_with_advice(monkeypatch):
    run = start_run(norm=True)
    limit(monkeypatch, run, 1)  # two images are the least for batch normalization
    with pytest.raises(torch.cuda.OutOfMemoryError) as raised:
        training.train_step(run, [batch()])
    assert run.micro_batches == 2
    assert "decrease schedule.batch_size" in errors.describe_out_of_memory(raised.value)


@pytest.mark.parametrize("case", ["fixed", "late"])
def test_fixed_accumulate_and_late_steps_are_not_repeated(case, monkeypatch):
    run = start_run(accumulate=1 if case == "fixed" else "auto")
    run.iteration = accumulation.RETRIED_STEPS if case == "late" else 0
    limit(monkeypatch, run, 2)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        training.train_step(run, [batch()])


@pytest.mark.medium
def test_resumed_run_keeps_its_micro_batches(tmp_path):
    unbroken, folder = tmp_path / "unbroken", tmp_path / "run"
    run = Run(unbroken, *SETTINGS, before=LimitImages(4))
    run.complete()
    assert run.output.count("out of memory; trying again with schedule.accumulate=2 (at most 4 of the 8") == 1
    assert checkpoint.read_checkpoint(unbroken / "last.pt")["micro_batches"] == 2
    assert Run(folder, *SETTINGS, before=LimitAndKill(4)).exit_status() == -signal.SIGKILL
    resumed = Run(folder, *SETTINGS, "resume=true")
    resumed.complete()
    assert "out of memory" not in resumed.output
    assert_same_end(unbroken, folder)


@pytest.mark.medium
def test_all_processes_divide_if_one_is_out_of_memory(tmp_path):
    settings = ["schedule.batch_size=8", "schedule.freeze_norm=true"]
    several = ranks(2, tmp_path / "several", *settings, before=LimitImages(1, rank="0"))
    plain = ranks(2, tmp_path / "plain", *settings)
    for run in (*several, *plain):
        run.complete()
    output = "".join(run.output for run in several)
    assert output.count("trying again with schedule.accumulate=2 (at most 2 of the 4") == 1
    assert output.count("trying again with schedule.accumulate=4 (at most 1 of the 4") == 1
    first, second = (checkpoint.read_checkpoint(tmp_path / name / "last.pt") for name in ("several", "plain"))
    assert (first["micro_batches"], second["micro_batches"]) == (4, 1)
    for name, tensor in first["model"].items():
        torch.testing.assert_close(second["model"][name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.medium
def test_all_processes_end_if_no_division_fits(tmp_path):
    several = ranks(2, tmp_path / "run", "schedule.batch_size=8", before=LimitImages(0, rank="1"))
    assert [run.exit_status() for run in several] == [2, 2]
    for run in several:
        assert "error: out of memory during a training step: decrease schedule.batch_size" in run.output


def test_failed_passes_are_freed_before_retrying(monkeypatch):
    """The traceback of the error would keep the tensors of the failed passes alive."""
    run, failed, alive = start_run(norm=True), [], []
    run.model.head.register_forward_hook(lambda *call: failed.append(weakref.ref(call[2])))
    limit(monkeypatch, run, 2)
    collect = gc.collect

    def collect_and_record():
        collect()
        alive.extend(ref() is not None for ref in failed)

    monkeypatch.setattr(accumulation.gc, "collect", collect_and_record)
    training.train_step(run, [batch()])
    assert alive
    assert not any(alive)
