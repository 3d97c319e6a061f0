"""Training: the state of a run, one step of it, its schedule and its validation."""

from segkit.runtime.precision import Runtime
from segkit.training.builders import build_training, log_step, open_monitor, remaining_steps
from segkit.training.nonfinite import Step
from segkit.training.run import setup_training
from segkit.training.schedule import Schedule
from segkit.training.step import steps, train_step
from segkit.training.validation import checkpoint_and_validate

__all__ = [
    "Runtime",
    "Schedule",
    "Step",
    "build_training",
    "checkpoint_and_validate",
    "log_step",
    "open_monitor",
    "remaining_steps",
    "setup_training",
    "steps",
    "train_step",
]
