"""Training: a run's moving parts, one step of it, its schedule and its validation."""

from segkit.system.runtime import Runtime
from segkit.training.run import Step, Training, begin, steps, train_step
from segkit.training.schedule import Schedule

__all__ = ["Runtime", "Schedule", "Step", "Training", "begin", "steps", "train_step"]
