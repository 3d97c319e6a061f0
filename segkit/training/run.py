"""State of a training run: how it is set up, saved and restored."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from segkit.config import registry
from segkit.cpu import optimize_for_cpu, prepare_process
from segkit.models.layers.dropout import fix_dropout_masks
from segkit.models.network import Segmenter
from segkit.runtime import distributed, files
from segkit.runtime.precision import Runtime
from segkit.runtime.signals import StopRequest
from segkit.runtime.text import first_line
from segkit.training import activation_checkpointing, nonfinite, parameter_groups
from segkit.training.best_metric import format_metric, is_better
from segkit.training.nonfinite import NonFiniteGuard
from segkit.training.schedule import Schedule

POSITION = {  # what must be unchanged on resume, because an iteration takes the next samples of one stream
    "batch_size": "schedule.batch_size",
    "images": "number of training images",
    "epoch": "samples of an epoch (schedule.drop_last)",
}
STORED = (  # attributes that a checkpoint stores unchanged
    "iteration",
    "micro_batches",
    "last_validation",
    "validation_pending",
    "val_files",
    "metric",
    "best",
    "validations_since_best",
)


@dataclass
class Training:
    """State of a training run, and the parts that change it."""

    model: Segmenter
    runner: nn.Module  # the model, perhaps compiled and in DistributedDataParallel
    loss: Any  # a module of segkit.losses
    optimizer: torch.optim.Optimizer
    lr_factor: Callable[[int], float]  # learning-rate schedule, by iteration
    scaler: torch.amp.GradScaler
    ema_model: Segmenter | None
    guard: NonFiniteGuard
    schedule: Schedule
    runtime: Runtime
    device: torch.device
    seed: int
    samples: int  # of the training set
    length: int  # iterations in all
    metric: str = "mIoU"  # selects the best weights
    files: str = ""  # digest of the names of the training files
    val_files: str = ""  # and of the validation files
    frozen_modules: list[nn.Module] = field(default_factory=list)  # stay in evaluation mode
    iteration: int = 0  # optimizer steps done
    first_iteration: int = 0  # of this process
    micro_batches: int = 1  # into which schedule.accumulate=auto divides a batch
    best: float | None = None  # value of the metric so far
    validations_since_best: int = 0
    validation_pending: bool = False  # at this iteration
    last_validation: int | None = None  # iteration
    has_unscored: bool = False  # a batch without a scored pixel was reported
    notes: list[str] = field(default_factory=list)  # logged before the first step
    stop_request: StopRequest = field(default_factory=StopRequest)

    @property
    def is_out_of_patience(self) -> bool:
        """Return whether ``schedule.patience`` validations in a row found no better weights."""
        patience = self.schedule.patience
        return patience is not None and self.validations_since_best >= patience

    @property
    def remaining_iterations(self) -> range:
        """Return the iterations that are still to come."""
        return range(self.iteration, self.iteration if self.is_out_of_patience else self.length)

    @property
    def best_text(self) -> str:
        """Return the name and the best value of the metric."""
        return format_metric(self.metric, self.best)

    def update_best(self, value: float) -> bool:
        """Compare a validation's metric with the best one so far and return whether it is better."""
        if is_better(self.metric, value, self.best):
            self.best, self.validations_since_best = value, 0
            return True
        if self.best is not None:  # patience starts with the first defined value
            self.validations_since_best += 1
        return False

    def ema_distance(self) -> Tensor | None:
        """Return the distance of the moving average from the weights, as a fraction of their norm."""
        if self.ema_model is None:
            return None
        pairs = zip(self.ema_model.parameters(), self.model.parameters(), strict=True)
        squares = [torch.stack([(a - b).square().sum(), b.square().sum()]) for a, b in pairs]
        distance, norm = torch.stack(squares).detach().sum(0)
        return (distance / norm).sqrt()

    @property
    def position(self) -> dict[str, Any]:
        """Return what determines the samples of an iteration (``segkit.data.loaders.SampleOrder``)."""
        return {
            "batch_size": self.schedule.batch_size,
            "images": self.samples,
            "epoch": self.schedule.samples_per_epoch(self.samples),
            "files": self.files,
        }

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs, as tensors and plain Python.

        Raises:
            ValueError: a step, a weight or an optimizer state is not finite.
        """
        self.guard.check()
        state = {name: getattr(self, name) for name in STORED}
        state |= {
            "position": self.position,
            "model": self.model.state_dict(),
            "average": self.ema_model.state_dict() if self.ema_model is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "guard": self.guard.state(),
        }
        nonfinite.check_state(state)
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a result of ``state()``; hyperparameters are those of the current settings.

        Raises:
            ValueError: the state belongs to another model, optimizer, batch size or data set, the schedule
                ends before it, or it is not the state of a training.
        """
        try:
            self._check_position(state["position"], state["iteration"])
            self._restore_tensors(state)
            self._restore_progress(state)
        except (KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
            raise ValueError(
                f"the checkpoint has no training state ({type(error).__name__}: {first_line(error)}). Start a"
                " new run from its weights with model.weights=FILE."
            ) from error

    def find_stop_signal(self) -> int:
        """Return the signal that asked any process to stop, 0 for none; the same on all processes."""
        return distributed.all_reduce_max(self.stop_request.signal)

    def _check_position(self, saved: dict[str, Any], iteration: int) -> None:
        """Check that the run can resume at the same samples."""
        position = self.position
        if iteration > self.length:
            raise ValueError(
                f"schedule: ends at iteration {self.length:,}, and the run has done {iteration:,}. Give a"
                " longer schedule.epochs or schedule.iterations."
            )
        for key, name in POSITION.items():
            if position[key] != saved[key]:
                raise ValueError(
                    f"{name}={position[key]}: the run was trained with {saved[key]} up to iteration"
                    f" {iteration:,}. Resume with the same value, or start a new run_name=... from its"
                    " weights with model.weights=FOLDER/last.pt."
                )
        if position["files"] != saved["files"]:
            self.notes.append("careful: the training files have other names than at the checkpoint")

    def _restore_tensors(self, state: dict[str, Any]) -> None:
        files.check_state_matches(self.model.state_dict(), state["model"], "model")
        self.model.load_state_dict(state["model"])
        if self.ema_model is not None:
            average = state["average"] or state["model"]
            files.check_state_matches(self.ema_model.state_dict(), average, "model")
            self.ema_model.load_state_dict(average)
        parameter_groups.restore_optimizer(self.optimizer, state["optimizer"])
        if state["scaler"] and self.scaler.is_enabled():  # empty unless the run was in fp16
            self.scaler.load_state_dict(state["scaler"])

    def _restore_progress(self, state: dict[str, Any]) -> None:
        self.guard.restore(state["guard"])
        metric, val_files = self.metric, self.val_files
        for name in STORED:
            setattr(self, name, state[name])
        if val_files != self.val_files:
            self.notes.append(
                "careful: the validation files changed since the checkpoint, so its best"
                f" {self.best_text} is not comparable and is discarded"
            )
        if (metric, val_files) != (self.metric, self.val_files):
            self.best, self.validations_since_best = None, 0
            self.metric, self.val_files = metric, val_files
        self.first_iteration = self.iteration
        if self.iteration == self.length and self.last_validation != self.iteration:
            self.validation_pending = True


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
    """Prepare a model for training on a device, and build its optimizer, schedule and guard.

    Raises:
        ValueError: there is one class only, or ``runtime.compile`` finds no compiler.
    """
    if model.num_classes == 1:
        raise ValueError(
            "the class table has one scored class, so any network is right. Make background a class."
        )
    runtime = runtime.resolve(device)
    runtime.apply()
    activation_checkpointing.recompute_stages(model, runtime.activation_checkpointing)
    if runtime.optimize_cpu:
        optimize_for_cpu(model)
        prepare_process()
    fix_dropout_masks(model)
    model = model.to(device, memory_format=runtime.memory_format)  # pyright: ignore[reportCallIssue]
    parameter_groups.freeze(model, schedule)
    groups = parameter_groups.parameter_groups(model, schedule)
    ema_model = None
    if schedule.ema is not None:
        ema_model = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    length = schedule.length(samples)
    runner = distributed.wrap_data_parallel(model, device)
    frozen = parameter_groups.frozen_modules(runner, norms=schedule.freeze_norm)
    if runtime.compile:
        runner = torch.compile(runner)
    return Training(
        model=model,
        runner=runner,  # pyright: ignore[reportArgumentType]
        loss=loss.to(device),
        optimizer=registry.build("training.optimizers", schedule.optimizer, groups=groups, lr=schedule.lr),
        lr_factor=registry.build("training.lr_schedules", schedule.lr_schedule, total=length),
        scaler=torch.amp.GradScaler(device.type, enabled=runtime.precision == "fp16"),
        ema_model=ema_model,
        guard=NonFiniteGuard(schedule.nonfinite, schedule.nonfinite_in_a_row),
        schedule=schedule,
        runtime=runtime,
        device=device,
        seed=seed,
        samples=samples,
        length=length,
        metric=metric,
        frozen_modules=frozen,
    )


def digest_names(names: Iterable[str]) -> str:
    """Return a digest of file names, in their order."""
    return hashlib.blake2b("\n".join(names).encode(), digest_size=16).hexdigest()
