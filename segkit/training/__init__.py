"""Training: a run's moving parts, one step of it, its schedule and its validation."""

from segkit.system.runtime import Runtime
from segkit.training.assembly import monitored, of_settings, record, steps_left
from segkit.training.lr_finder import range_test
from segkit.training.run import Step, Training, begin, steps, train_step
from segkit.training.schedule import Schedule
from segkit.training.validation import save_validate_leave, validate

__all__ = [
    "Runtime",
    "Schedule",
    "Step",
    "Training",
    "begin",
    "monitored",
    "of_settings",
    "range_test",
    "record",
    "save_validate_leave",
    "steps",
    "steps_left",
    "train_step",
    "validate",
]
