"""How the arithmetic of a run is done."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass, replace
from typing import Literal

import torch

from segkit.runtime.hardware import supports_bf16

LOG = logging.getLogger("segkit")
PRECISION = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """How the arithmetic is done; nothing here changes what is computed beyond rounding."""

    precision: Literal["auto", "float32", "bf16", "fp16"] = "float32"
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = False
    optimize_cpu: Literal["auto"] | bool = "auto"  # see segkit.cpu; auto on a CPU, if it is not compiled
    activation_checkpointing: tuple[str, ...] = ()  # stages of the backbone, such as ["layer3"]

    def on(self, device: torch.device) -> Runtime:
        """Return the same with ``auto`` decided: bf16 where the device has units for it, else float32.

        Raises:
            ValueError: the network is to be compiled, and there is no compiler, or ``optimize_cpu`` is true.
        """
        if self.compile:
            _refuse_without_compiler()
            if self.optimize_cpu is True:
                raise ValueError(
                    "runtime.optimize_cpu=true: must be auto or false with runtime.compile=true. The compiler"
                    " decides by itself what is recomputed."
                )
        fast = supports_bf16(device)
        if self.optimize_cpu == "auto":
            return replace(self, optimize_cpu=device.type == "cpu" and not self.compile).on(device)
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
