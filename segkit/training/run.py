"""One training run's moving parts, and one step of it.

A step's randomness (dropout) is seeded by (seed, iteration, rank), so a resumed run needs no generator's
state and draws what the unbroken one draws.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from segkit.config import registry
from segkit.cpu import hold_memory, optimize_for_cpu, prepare_process
from segkit.models.layers.dropout import fix_dropout_masks
from segkit.models.network import Segmenter
from segkit.runtime import distributed, files, replicas
from segkit.runtime.errors import first_line
from segkit.runtime.precision import Runtime
from segkit.runtime.seeds import seed_of
from segkit.runtime.signals import StopRequest
from segkit.training import accumulation, activation_checkpointing, freezing, nonfinite, parameter_groups
from segkit.training.best import format_metric, is_better
from segkit.training.nonfinite import NonFiniteGuard, StepRecord
from segkit.training.position import Position
from segkit.training.schedule import Schedule
from segkit.types import Batch

LOG = logging.getLogger("segkit")


class Step(NamedTuple):
    """Losses and gradient norm of one step; tensors stay on the device, so that nothing waits for it."""

    losses: dict[str, Tensor]  # of each head, over all processes; their sum is the loss
    gradient_norm: Tensor


@dataclass
class Training:
    """State of a training run, and the parts that change it."""

    model: Segmenter
    runner: nn.Module  # the model, perhaps compiled and in DistributedDataParallel
    loss: Any  # of segkit.losses: a module whose ``weight`` is that of a label
    optimizer: torch.optim.Optimizer
    policy: Callable[[int], float]
    scaler: torch.amp.GradScaler
    average: Segmenter | None
    guard: NonFiniteGuard
    schedule: Schedule
    runtime: Runtime
    device: torch.device
    seed: int
    samples: int  # of the training set
    length: int  # optimizer steps of the whole run
    metric: str = "mIoU"  # by which the best weights are chosen
    files: str = ""  # digest of the names of the training files
    val_files: str = ""  # and of the validation files
    resting: list[nn.Module] = field(default_factory=list)  # modules that stay in evaluation mode
    iteration: int = 0  # optimizer steps done
    first_iteration: int = 0  # of this start
    micro_batches: int = 1  # in which schedule.accumulate=auto divides a batch
    best: float | None = None  # of the metric, so far
    stale: int = 0  # validations since then
    validation_pending: bool = False  # of this iteration
    validated: int | None = None  # iteration of the last validation
    has_unscored: bool = False  # a batch without a scored pixel was met
    notes: list[str] = field(default_factory=list)  # printed before it begins
    request: StopRequest = field(default_factory=StopRequest)  # of this process, to leave

    def learning_rates(self) -> dict[str, float]:
        """Return the rate of each parameter group in the last step."""
        return {group["name"]: group["lr"] for group in self.optimizer.param_groups}

    def due(self, every: float) -> bool:
        """Return whether something done every so often, in the schedule's unit, is due now."""
        return self.schedule.due(self.iteration, every=every, samples=self.samples)

    @property
    def out_of_patience(self) -> bool:
        """Return whether ``schedule.patience`` validations found no better weights, so that the run ends."""
        return self.schedule.patience is not None and self.stale >= self.schedule.patience

    @property
    def remaining_iterations(self) -> range:
        """Return the iterations that are still to come."""
        return range(self.iteration, self.iteration if self.out_of_patience else self.length)

    @property
    def eval_model(self) -> Segmenter:
        """Return the model that is validated: the moving average if there is one."""
        return self.model if self.average is None else self.average

    @property
    def best_text(self) -> str:
        """Return the metric by which the best weights were chosen, with its value."""
        return format_metric(self.metric, self.best)

    def update_best(self, value: float) -> bool:
        """Take a validation's metric into account and return whether it is the best so far."""
        better = is_better(self.metric, value, self.best)
        if better:
            self.best, self.stale = value, 0
        elif self.best is not None:  # patience waits for a first defined value
            self.stale += 1
        return better

    def ema_distance(self) -> Tensor | None:
        """Return the distance of the moving average from the weights, as a fraction of their norm."""
        if self.average is None:
            return None
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        parts = [torch.stack([(a - b).square().sum(), b.square().sum()]) for a, b in pairs]
        apart, size = torch.stack(parts).detach().sum(0)
        return (apart / size).sqrt()

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs, as tensors and plain Python.

        Raises:
            ValueError: a step, a weight or an optimizer state is not finite.
        """
        self.guard.check()
        state = {
            "iteration": self.iteration,
            "micro_batches": self.micro_batches,
            "position": self.position._asdict(),
            "val_files": self.val_files,
            "validated": self.validated,
            "best": self.best,
            "metric": self.metric,
            "stale": self.stale,
            "validation_pending": self.validation_pending,
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "watch": self.guard.state(),
        }
        nonfinite.check_state(state)
        return state

    @property
    def position(self) -> Position:
        """Return how far the run is in its data."""
        return Position(
            samples_seen=self.iteration * self.schedule.batch_size,
            batch_size=self.schedule.batch_size,
            images=self.samples,
            epoch=self.schedule.samples_per_epoch(self.samples),
            files=self.files,
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where ``state()`` was taken; rates and the like are those of the settings of now.

        Raises:
            ValueError: it was taken with another model, optimizer, batch size or data set, the schedule ends
                before it, or it is not the state of a training.
        """
        try:
            self._restore(state)
        except (KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
            raise ValueError(
                f"the checkpoint holds no state to resume a training from ({type(error).__name__}:"
                f" {first_line(error)}); model.weights=FILE starts a new run from its weights"
            ) from error

    def _restore(self, state: dict[str, Any]) -> None:
        self.notes += self.position.compare(Position(**state["position"]))
        if state["iteration"] > self.length:
            raise ValueError(
                f"schedule: ends at iteration {self.length:,}, and the run has done {state['iteration']:,}."
                " Give a longer schedule.epochs or schedule.iterations."
            )
        files.check_state_matches(self.model.state_dict(), state["model"], "model")
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            average = state["average"] or state["model"]
            files.check_state_matches(self.average.state_dict(), average, "model")
            self.average.load_state_dict(average)
        parameter_groups.restore(self.optimizer, state["optimizer"])
        if state["scaler"] and self.scaler.is_enabled():  # empty unless the run was in fp16
            self.scaler.load_state_dict(state["scaler"])
        self.guard.restore(state["watch"])
        self.iteration = self.first_iteration = state["iteration"]
        self.micro_batches = state["micro_batches"]
        if state["val_files"] != self.val_files:
            self.notes.append(
                "careful: the validation files changed since the checkpoint, so the best"
                f" {format_metric(state['metric'], state['best'])} is not comparable and is forgotten"
            )
        elif state["metric"] == self.metric:  # the best of another metric is unknown
            self.best, self.stale = state["best"], state["stale"]
        self.validated = state["validated"]
        is_last = self.iteration == self.length and self.validated != self.iteration
        self.validation_pending = state["validation_pending"] or is_last

    def stop_signal(self) -> int:
        """Return the signal that asked any process to leave, 0 for none; the same on all processes."""
        return distributed.all_reduce_max(self.request.signal)


def setup_training(
    model: Segmenter,
    loss: nn.Module,
    *,
    samples: int,
    schedule: Schedule,
    runtime: Runtime,
    device: torch.device,
    seed: int,
    metric: str = "mIoU",
) -> Training:
    """Put a model on its device and build what trains it.

    Args:
        model: with its initial weights.
        loss: of ``segkit.losses``.
        samples: of the training set; with ``schedule.epochs`` they give the length.
        schedule: of the settings.
        runtime: of the settings.
        device: of this process.
        seed: of the run.
        metric: by which the best weights are chosen, see ``segkit.training.best``.

    Raises:
        ValueError: there is one class only, or no compiler where one is asked for.
    """
    if model.num_classes == 1:
        raise ValueError(
            "only one class is scored, so any network is right: make background a class in the class table"
        )
    runtime = runtime.on(device)
    runtime.apply()
    layout = torch.channels_last if runtime.channels_last else torch.contiguous_format
    activation_checkpointing.checkpoint_stages(model, runtime.activation_checkpointing)
    if runtime.optimize_cpu:
        optimize_for_cpu(model)
        prepare_process()
    fix_dropout_masks(model)
    model = model.to(device, memory_format=layout)  # pyright: ignore[reportCallIssue]
    freezing.freeze(model, stages=schedule.freeze, norms=schedule.freeze_norm)
    groups = parameter_groups.parameter_groups(
        model,
        lr=schedule.lr,
        head_lr_multiplier=schedule.head_lr_multiplier,
        decay_norm_and_bias=schedule.decay_norm_and_bias,
        layer_decay=schedule.layer_decay,
    )
    runner = replicas.wrap_data_parallel(model, device)
    return Training(
        model=model,
        runner=torch.compile(runner) if runtime.compile else runner,  # pyright: ignore[reportArgumentType]
        loss=loss.to(device),
        optimizer=registry.build("training.optimizers", schedule.optimizer, groups=groups, lr=schedule.lr),
        policy=registry.build("training.lr_schedules", schedule.lr_schedule, total=schedule.length(samples)),
        scaler=torch.amp.GradScaler(device.type, enabled=runtime.precision == "fp16"),
        average=parameter_groups.make_ema(model) if schedule.ema is not None else None,
        guard=NonFiniteGuard(device, schedule.nonfinite, schedule.nonfinite_in_a_row),
        schedule=schedule,
        runtime=runtime,
        device=device,
        seed=seed,
        samples=samples,
        length=schedule.length(samples),
        metric=metric,
        resting=freezing.frozen_modules(runner, norms=schedule.freeze_norm),
    )


def steps(batches: Iterable[Batch], accumulate: int) -> Iterator[tuple[list[Batch], float]]:
    """Yield the micro-batches of each optimizer step, and the seconds it had to wait for them."""
    iterator = iter(batches)
    while True:
        begin = time.perf_counter()
        parts = list(itertools.islice(iterator, accumulate))
        if not parts:
            return
        yield parts, time.perf_counter() - begin


def train_step(training: Training, batches: Sequence[Batch]) -> Step:
    """Take one optimizer step over the micro-batches of one batch; ``training.iteration`` counts it.

    Each micro-batch's loss is its mean times its share of all scored pixels of the batch, over all
    micro-batches and processes, so the gradient is that of the whole batch however it is divided. A batch
    without a scored pixel changes nothing: no weight, momentum, statistic or average.
    """
    for group in training.optimizer.param_groups:
        group["lr"] = group["base_lr"] * training.policy(training.iteration)
    batches = [_on_device(batch, training) for batch in batches]
    weights = torch.stack([training.loss.weight(batch.label) for batch in batches])
    whole = distributed.all_reduce_sum(weights.sum(0))
    if not whole.any():
        return _skip_unscored(training)
    whole = whole.clamp(min=1e-9)
    buffers = [(b, b.clone()) for b in training.model.buffers()] if training.guard.skips else []
    passes = partial(_passes, training, whole / distributed.world_size())
    if training.schedule.accumulate == "auto":
        losses = accumulation.run_passes(training, batches, passes)
    else:
        losses = passes(batches)
    losses = distributed.all_reduce_mean(losses)
    if training.device.type != "cuda":  # where statistics are synchronized already
        replicas.average_statistics(training.model)
    with record_function("optimizer"):
        norm = _norm_of_gradient(training)
        names = [name for batch in batches for name in batch.names]
        record = StepRecord(training.iteration + 1, losses, norm, training.learning_rates(), names)
        if training.guard.must_skip(record, scaled=training.scaler.is_enabled()):
            for buffer, before in buffers:  # batch statistics of the step
                buffer.copy_(before)
        else:
            _update(training, norm)
        training.scaler.update()
        training.optimizer.zero_grad(set_to_none=True)
    training.iteration += 1
    return Step(losses, norm)


def _passes(training: Training, whole: Tensor, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Add the gradients of micro-batches to the model's; ``whole`` is their mean weight over processes."""
    torch.manual_seed(seed_of(training.seed, training.iteration, distributed.rank()))
    losses: dict[str, Tensor] = {}
    for index, batch in enumerate(batches):
        with replicas.no_sync_until_last(training.runner, unless=index == len(batches) - 1):
            parts = _backward(training, batch, training.loss.weight(batch.label) / whole)
        losses = {name: losses.get(name, 0) + part for name, part in parts.items()}
    return losses


def _skip_unscored(training: Training) -> Step:
    training.iteration += 1
    if not training.has_unscored and distributed.is_main():
        training.has_unscored = True
        LOG.warning(
            "iteration %d: no pixel of the batch is scored, so it changes nothing. Later batches of this"
            " kind are not reported.",
            training.iteration,
        )
    return Step({}, torch.zeros((), device=training.device))


def _on_device(batch: Batch, training: Training) -> Batch:
    layout = torch.channels_last if training.runtime.channels_last else torch.contiguous_format
    image = batch.image.to(training.device, non_blocking=True).contiguous(memory_format=layout)
    image = image if batch.bands.photographs else training.model.normalize(image)
    return Batch(image, batch.label.to(training.device, non_blocking=True), batch.names)


def _backward(training: Training, batch: Batch, share: Tensor) -> dict[str, Tensor]:
    training.runner.train()
    for module in training.resting:
        module.eval()
    coarse = isinstance(training.model, Segmenter) and getattr(training.loss, "takes_head_logits", False)
    with record_function("forward"):
        with training.runtime.autocast(training.device):
            # the loss resizes, so that logits of the image's size never exist
            logits = training.runner(batch.image, at="head") if coarse else training.runner(batch.image)
        losses = training.loss(logits, batch.label)  # a sum of losses has one number, and one share, for each
        parts = {
            name: (part * share.to(torch.promote_types(part.dtype, torch.float32))).sum()
            for name, part in losses.items()
        }
    with record_function("backward"):
        training.scaler.scale(torch.stack(list(parts.values())).sum()).backward()
    return {name: part.detach() for name, part in parts.items()}


def _norm_of_gradient(training: Training) -> Tensor:
    training.scaler.unscale_(training.optimizer)
    return nn.utils.get_total_norm(
        [p.grad for p in parameter_groups.parameters(training.optimizer) if p.grad is not None]
    )


def _update(training: Training, norm: Tensor) -> None:
    """Clip, step, average."""
    if training.schedule.clip_gradient is not None:
        moved = parameter_groups.parameters(training.optimizer)
        nn.utils.clip_grads_with_norm_(moved, training.schedule.clip_gradient, norm)
    training.scaler.step(training.optimizer)
    average, decay = training.average, training.schedule.ema
    if average is not None and decay is not None:
        parameter_groups.update_average(average, training.model, decay=decay, iteration=training.iteration)
    if training.runtime.optimize_cpu:
        hold_memory()
