"""End a command with a one-line message and exit status 2 after a user's mistake or when memory runs out.

Other exceptions (``AssertionError``, ``KeyError``, ...) are bugs and keep their traceback.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from segkit.runtime import interrupt
from segkit.runtime.text import first_line

PACKAGE = Path(__file__).parents[1]
OUT_OF_MEMORY = (  # messages of PyTorch, CUDA and OpenCV; not all have an exception type
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "Insufficient memory",
    "Storage size calculation overflowed",
    "is killed by signal: Killed",
    "is killed by signal: Bus error",
)
TRAINING = (
    "decrease schedule.batch_size or augment.crop_size, increase schedule.accumulate (the same batch in"
    " smaller micro-batches; auto does it on a GPU), or set"
    " runtime.activation_checkpointing=[layer1,layer2,layer3] (computed twice), runtime.precision=bf16 or"
    " model.backbone.output_stride=16"
)
SCORING = (
    "set evaluation.memory to the GiB that may be used, evaluation.window to the side of a sliding window, or"
    " evaluation.precision=bf16"
)
READING = "decrease augment.crop_size, schedule.batch_size or loader.workers"
NETWORK = "choose a smaller model=... or model/backbone=..., or a smaller model.backbone.width"
ACTIVITIES = {  # path below segkit/, optionally with a function: the activity, and how it needs less memory
    "training/step.py:steps": ("reading training images", READING),
    "training/step.py": ("a training step", TRAINING),
    "training/run.py": ("setting the training up", NETWORK),
    "training/validation.py": ("validation", SCORING),
    "evaluation": ("scoring", SCORING),
    "inference": ("prediction", SCORING),
    "models": ("building the network", NETWORK),
    "losses": ("building the loss", NETWORK),
    "data": ("reading images", READING),
}


def report_user_errors(command: Callable[[], None]) -> None:
    """Run a command; print only the message of a user's mistake (SEGKIT_TRACEBACK=1 prints the traceback).

    Raises:
        SystemExit: with status 2 after a mistake or when memory ran out, 130 after Ctrl-C.
    """
    interrupt.restore()
    try:
        command()
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # or Python would wait for loaders' workers at exit
        if isinstance(error, KeyboardInterrupt):
            sys.stderr.write("stopped\n")
            raise SystemExit(130) from None
        has_no_memory = is_out_of_memory(error)
        if not has_no_memory and not isinstance(error, ValueError | OSError):
            raise
        if os.environ.get("SEGKIT_TRACEBACK"):
            traceback.print_exc()
        elif has_no_memory:
            sys.stderr.write(f"error: {describe_out_of_memory(error)}\n")
        elif os.environ.get("RANK", "0") == "0" or isinstance(error, OSError):
            sys.stderr.write(f"error: {_format_error(error)}\n")
        raise SystemExit(2) from None


def _format_error(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the machine or a GPU is out of memory."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return not isinstance(error, ValueError) and any(text in str(error) for text in OUT_OF_MEMORY)


def describe_out_of_memory(error: BaseException) -> str:
    """Return a message with what was running when memory ran out, and settings that need less."""
    activity, advice = _find_activity(error.__traceback__)
    return f"out of memory during {activity}: {advice} ({first_line(error)})"


def _find_activity(trace: TracebackType | None) -> tuple[str, str]:
    """Return the activity of the outermost known function of segkit, and how it needs less memory."""
    for frame in traceback.extract_tb(trace):
        file = Path(frame.filename)
        if not file.is_relative_to(PACKAGE):
            continue
        name = file.relative_to(PACKAGE).as_posix()
        for key in (f"{name}:{frame.name}", name, name.split("/")[0]):
            if key in ACTIVITIES:
                return ACTIVITIES[key]
    return "the command", f"{TRAINING}; for predictions {SCORING}"
