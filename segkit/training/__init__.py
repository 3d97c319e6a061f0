"""Training: a run's moving parts, one step of it, its schedule and its validation."""

from segkit.runtime.precision import Runtime
from segkit.training.assembly import build_training, open_monitor, record, remaining_steps
from segkit.training.range_test import range_test
from segkit.training.run import Step, Training, setup_training, steps, train_step
from segkit.training.schedule import Schedule
from segkit.training.validation import checkpoint_and_validate, validate

__all__ = [
    "Runtime",
    "Schedule",
    "Step",
    "Training",
    "build_training",
    "checkpoint_and_validate",
    "open_monitor",
    "range_test",
    "record",
    "remaining_steps",
    "setup_training",
    "steps",
    "train_step",
    "validate",
]
