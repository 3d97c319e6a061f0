"""How a command ends when it cannot go on: one message in words and exit status 2.

An error of ours (``AssertionError``, ``KeyError``, ...) is none of these and shows where it arose.
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

ROOT = Path(__file__).parents[1]
OUT_OF_MEMORY = (  # what PyTorch, CUDA and OpenCV say; not all of them have an exception of their own
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "Insufficient memory",
    "Storage size calculation overflowed",
    "is killed by signal: Killed",
    "is killed by signal: Bus error",
)
TRAINING = (
    "make schedule.batch_size or augment.crop_size smaller, schedule.accumulate greater (the same batch in"
    " more parts; auto finds out on a GPU), or set runtime.activation_checkpointing=[layer1,layer2,layer3]"
    " (these are run twice), runtime.precision=bf16 or model.backbone.output_stride=16"
)
SCORING = (
    "set evaluation.memory to the GiB that may be taken, evaluation.window to the side of a window that"
    " slides over the image, or evaluation.precision=bf16"
)
READING = "make augment.crop_size, schedule.batch_size or loader.workers smaller"
NETWORK = "choose a smaller model=... or model/backbone=..., or a smaller model.backbone.width"
DOING = {  # file below segkit/, and perhaps a function in it: what is done there, and what makes it smaller
    "training/run.py:steps": ("reading training images", READING),
    "training/run.py:setup_training": ("setting the training up", NETWORK),
    "training/run.py": ("a training step", TRAINING),
    "training/validation.py": ("validation", SCORING),
    "evaluation": ("scoring", SCORING),
    "inference": ("prediction", SCORING),
    "models": ("building the network", NETWORK),
    "losses": ("building the loss", NETWORK),
    "data": ("reading images", READING),
}


def report_user_errors(story: Callable[[], None]) -> None:
    """Run a command; a user's mistake ends it with its message alone (SEGKIT_TRACEBACK=1 shows where).

    Raises:
        SystemExit: with status 2 after a mistake or for want of memory, 130 after Ctrl-C.
    """
    interrupt.restore()
    try:
        _run_and_free(story)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        raise SystemExit(130) from None
    except Exception as error:
        wanting = is_out_of_memory(error)
        if not wanting and not isinstance(error, ValueError | OSError):
            raise
        if os.environ.get("SEGKIT_TRACEBACK"):
            traceback.print_exc()
        elif wanting:
            sys.stderr.write(f"error: {out_of_memory(error)}\n")
        elif os.environ.get("RANK", "0") == "0" or isinstance(error, OSError):
            sys.stderr.write(f"error: {_describe(error)}\n")
        raise SystemExit(2) from None


def _run_and_free(story: Callable[[], None]) -> None:
    """Run a command; after an error free its variables, or Python would wait for loaders' workers at exit."""
    try:
        story()
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise


def _describe(error: Exception) -> str:
    """Return the message, of an error of the operating system its file and reason without the number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def first_line(error: BaseException) -> str:
    """What an error says, its kind where it says nothing; libraries go on for pages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error tells that memory ended, that of the machine or of a GPU."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return not isinstance(error, ValueError) and any(words in str(error) for words in OUT_OF_MEMORY)


def out_of_memory(error: BaseException) -> str:
    """What was being done when memory ended, and the settings that make it smaller or were found to fit."""
    doing, remedy = _doing(error.__traceback__)
    remedy = "; ".join([*getattr(error, "__notes__", ()), remedy])
    return f"memory ended during {doing}: {remedy} ({first_line(error)})"


def _doing(trace: TracebackType | None) -> tuple[str, str]:
    """What the outermost function of segkit that is known was doing."""
    for frame in traceback.extract_tb(trace):
        file = Path(frame.filename)
        if not file.is_relative_to(ROOT):
            continue
        name = file.relative_to(ROOT).as_posix()
        for key in (f"{name}:{frame.name}", name, name.split("/")[0]):
            if key in DOING:
                return DOING[key]
    return "the command", f"{TRAINING}; for predictions {SCORING}"
