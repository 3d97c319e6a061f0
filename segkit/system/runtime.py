"""How the arithmetic of a run is done."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import shutil
from dataclasses import dataclass, replace
from typing import Literal

import torch

from segkit.system.hardware import supports_bf16

LOG = logging.getLogger("segkit")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
LASTING = 2**18  # bytes of a block that is worth pages of its own, where it lives as long as the training
_holding = False
PRECISION = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """How the arithmetic is done; nothing here changes what is computed beyond rounding."""

    precision: Literal["auto", "float32", "bf16", "fp16"] = "float32"
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = False
    recompute: bool = True
    checkpoint: tuple[str, ...] = ()  # stages of the backbone that are run again, such as ["layer3"]

    def on(self, device: torch.device) -> Runtime:
        """The same with ``precision=auto`` decided: bf16 where the device has units for it, else float32.

        Raises:
            ValueError: the network is to be compiled, and there is no compiler.
        """
        if self.compile:
            _refuse_without_compiler()
        fast = supports_bf16(device)
        if self.precision == "auto":
            return replace(self, precision="bf16" if fast else "float32")
        if self.precision == "bf16" and not fast:
            LOG.warning(
                "runtime.precision=bf16, but this device (%s) has no units for it and may be ten times slower"
                " than with runtime.precision=float32; auto chooses what is fast",
                device,
            )
        return self

    def apply(self) -> None:
        """Set torch's process-wide switches."""
        _lasting_memory()
        torch.backends.cudnn.benchmark = not self.deterministic
        if self.deterministic != torch.are_deterministic_algorithms_enabled():  # which imports the compiler
            torch.use_deterministic_algorithms(self.deterministic)
        if self.compile:
            from torch._inductor import config

            config.fallback_random = True  # dropout draws what it draws uncompiled
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which a network runs."""
        if self.precision == "auto":
            return self.on(device).autocast(device)
        precision = PRECISION[self.precision]
        return torch.autocast(device.type, precision, enabled=precision is not torch.float32)


def _refuse_without_compiler() -> None:
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    if not any(name and shutil.which(name.split()[0]) for name in names):
        raise ValueError(
            "runtime.compile=true needs a C++ compiler, and none of c++, g++ and clang++ is here: install"
            " one, name it in the environment variable CXX, or use runtime.compile=false"
        )


def _lasting_memory() -> None:
    """Give each large block pages of its own, until ``hold_memory``.

    What is made by then, momenta included, lives as long as the training. It would stand scattered between
    the tensors of a step, which come and go around it, and leave holes that nothing fits.
    """
    global _holding
    _holding = False
    _change(mmap_max=2**16)


def hold_memory() -> None:
    """Let the C library keep freed memory for the next step; to be called at the end of every step.

    By default it hands large blocks back at once and asks for them anew, pages of zeros, at every operation:
    5 % of a step on a CPU. ``release_memory`` still hands back what is free.
    """
    global _holding
    if not _holding:
        _holding = True
        _change(mmap_max=0)
        release_memory()


def _change(*, mmap_max: int) -> None:
    change = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None  # glibc's alone
    if change is not None:
        change(M_MMAP_THRESHOLD, LASTING)
        change(M_MMAP_MAX, mmap_max)
        change(M_TRIM_THRESHOLD, 2**31 - 1)


def release_memory() -> None:
    """Give freed memory back to the system, where the C library can.

    A validation leaves reference cycles (of traced networks, with their weights) and holes between what it
    allocated and what training holds; without this a process keeps half as much again as it uses.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None  # glibc's alone
    if trim is not None:
        trim(0)
