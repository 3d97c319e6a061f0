"""One optimizer step.

Its randomness (dropout) is seeded by (seed, iteration, rank), so a resumed run repeats the random numbers of
an uninterrupted one without storing a generator's state.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from segkit.cpu import hold_memory
from segkit.models.network import Segmenter
from segkit.runtime import distributed
from segkit.runtime.seeds import seed_of
from segkit.training import accumulation, parameter_groups
from segkit.training.nonfinite import Step
from segkit.training.run import Training
from segkit.types import Batch

LOG = logging.getLogger("segkit")


def steps(batches: Iterable[Batch], accumulate: int) -> Iterator[tuple[list[Batch], float]]:
    """Yield the micro-batches of each optimizer step, and the seconds spent waiting for them."""
    iterator = iter(batches)
    while True:
        start = time.perf_counter()
        micro_batches = list(itertools.islice(iterator, accumulate))
        if not micro_batches:
            return
        yield micro_batches, time.perf_counter() - start


def train_step(training: Training, batches: Sequence[Batch]) -> Step:
    """Take one optimizer step over the micro-batches of one batch, and increase ``training.iteration``.

    Each micro-batch's loss is its mean times its share of all scored pixels of the batch, over all
    micro-batches and processes, so the gradient is that of the batch however it is divided. A batch without
    a scored pixel changes nothing: no weight, momentum, statistic or average.
    """
    for group in training.optimizer.param_groups:
        group["lr"] = group["base_lr"] * training.lr_factor(training.iteration)
    batches = [_move_to_device(batch, training) for batch in batches]
    weights = torch.stack([training.loss.compute_weight(batch.label) for batch in batches])
    total_weight = distributed.all_reduce_sum(weights.sum(0))
    if not total_weight.any():
        return _skip_unscored(training, batches)
    mean_weight = total_weight.clamp(min=1e-9) / distributed.world_size()
    buffers = [(b, b.clone()) for b in training.model.buffers()] if training.guard.skips else []
    run_passes = partial(_run_passes, training, mean_weight)
    if training.schedule.accumulate == "auto":
        losses = accumulation.divide_until_it_fits(training, batches, run_passes)
    else:
        losses = run_passes(batches)
    losses = distributed.all_reduce_mean(losses)
    if training.device.type != "cuda":  # GPUs have synchronized the statistics
        distributed.average_statistics(training.model)
    with record_function("optimizer"):
        training.scaler.unscale_(training.optimizer)
        gradients = [p.grad for p in _trained_parameters(training) if p.grad is not None]
        step = _make_step(training, batches, losses, nn.utils.get_total_norm(gradients))
        if training.guard.must_skip(step, scaled=training.scaler.is_enabled()):
            for buffer, before in buffers:  # batch statistics of the step
                buffer.copy_(before)
        else:
            _update_weights(training, step.gradient_norm)
        training.scaler.update()
        training.optimizer.zero_grad(set_to_none=True)
    training.iteration += 1
    return step


def _move_to_device(batch: Batch, training: Training) -> Batch:
    """Return a batch on the device. The network normalizes photographs; other images are normalized here."""
    image = batch.image.to(training.device, non_blocking=True)
    image = image.contiguous(memory_format=training.runtime.memory_format)
    if not batch.bands.is_photograph:
        image = training.model.normalize(image)
    return Batch(image, batch.label.to(training.device, non_blocking=True), batch.names)


def _make_step(
    training: Training, batches: Sequence[Batch], losses: dict[str, Tensor], gradient_norm: Tensor
) -> Step:
    rates = {group["name"]: group["lr"] for group in training.optimizer.param_groups}
    names = [name for batch in batches for name in batch.names]
    return Step(training.iteration + 1, losses, gradient_norm, rates, names)


def _skip_unscored(training: Training, batches: Sequence[Batch]) -> Step:
    step = _make_step(training, batches, {}, torch.zeros((), device=training.device))
    training.iteration += 1
    if not training.has_unscored and distributed.is_main():
        training.has_unscored = True
        LOG.warning(
            "iteration %d: no pixel of the batch is scored, so it changes nothing. Later batches of this"
            " kind are not reported.",
            training.iteration,
        )
    return step


def _run_passes(training: Training, mean_weight: Tensor, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Run forward and backward passes over micro-batches; ``mean_weight`` is the mean over processes."""
    torch.manual_seed(seed_of(training.seed, training.iteration, distributed.rank()))
    losses: dict[str, Tensor] = {}
    for index, batch in enumerate(batches):
        with distributed.no_sync_until_last(training.runner, is_last=index == len(batches) - 1):
            parts = _backward(training, batch, training.loss.compute_weight(batch.label) / mean_weight)
        losses = {name: losses.get(name, 0) + part for name, part in parts.items()}
    return losses


def _backward(training: Training, batch: Batch, share: Tensor) -> dict[str, Tensor]:
    """Add the gradients of one micro-batch and return its share of each loss."""
    training.runner.train()
    for module in training.frozen_modules:
        module.eval()
    loss = training.loss
    takes_head_logits = isinstance(training.model, Segmenter) and getattr(loss, "takes_head_logits", False)
    with record_function("forward"):
        with training.runtime.autocast(training.device):
            if takes_head_logits:  # the loss resizes, so that logits of the image's size never exist
                logits = training.runner(batch.image, at="head")
            else:
                logits = training.runner(batch.image)
        parts = {}
        for name, part in loss(logits, batch.label).items():  # a sum of losses has one share for each
            parts[name] = (part * share.to(torch.promote_types(part.dtype, torch.float32))).sum()
    with record_function("backward"):
        training.scaler.scale(torch.stack(list(parts.values())).sum()).backward()
    return {name: part.detach() for name, part in parts.items()}


def _trained_parameters(training: Training) -> list[nn.Parameter]:
    return [parameter for group in training.optimizer.param_groups for parameter in group["params"]]


def _update_weights(training: Training, norm: Tensor) -> None:
    """Clip the gradient, take the optimizer's step and update the moving average."""
    schedule = training.schedule
    if schedule.clip_gradient is not None:
        nn.utils.clip_grads_with_norm_(_trained_parameters(training), schedule.clip_gradient, norm)
    training.scaler.step(training.optimizer)
    if training.ema_model is not None and schedule.ema is not None:
        parameter_groups.update_ema(
            training.ema_model, training.model, decay=schedule.ema, iteration=training.iteration
        )
    if training.runtime.optimize_cpu:
        hold_memory()
