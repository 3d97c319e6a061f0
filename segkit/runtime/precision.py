"""Arithmetic of a run: precision, memory layout, compilation, determinism."""

from __future__ import annotations

import logging
import os
import platform
import shutil
from dataclasses import dataclass, replace
from typing import Literal

import torch

LOG = logging.getLogger("segkit")
PRECISION = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
X86 = ("x86_64", "amd64", "i686", "i386")  # values of ``platform.machine``, in lower case
X86_BF16 = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private: absent in some versions


@dataclass(frozen=True)
class Runtime:
    """Settings of the arithmetic; none of them changes results beyond rounding."""

    precision: Literal["auto", "float32", "bf16", "fp16"] = "float32"
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = False
    optimize_cpu: Literal["auto"] | bool = "auto"  # see segkit.cpu; auto on a CPU, if it is not compiled
    activation_checkpointing: tuple[str, ...] = ()  # stages of the backbone, such as ["layer3"]

    def resolve(self, device: torch.device) -> Runtime:
        """Return a copy in which every ``auto`` is decided for a device: bf16 where it is fast, else float32.

        Raises:
            ValueError: ``compile`` is true, and there is no compiler, or ``optimize_cpu`` is true.
        """
        optimize_cpu, precision = self.optimize_cpu, self.precision
        if self.compile:
            _check_compiler()
            if optimize_cpu is True:
                raise ValueError(
                    "runtime.optimize_cpu=true: must be auto or false with runtime.compile=true. The compiler"
                    " decides what is recomputed."
                )
        if optimize_cpu == "auto":
            optimize_cpu = device.type == "cpu" and not self.compile
        if precision == "auto":
            precision = "bf16" if supports_bf16(device) else "float32"
        elif precision == "bf16" and not supports_bf16(device):
            LOG.warning(
                "runtime.precision=bf16: this device (%s) has no bf16 units and may be ten times slower than"
                " with runtime.precision=float32. Use runtime.precision=auto for the faster one.",
                device,
            )
        return replace(self, optimize_cpu=optimize_cpu, precision=precision)

    def apply(self) -> None:
        """Set torch's process-wide switches."""
        torch.backends.cudnn.benchmark = not self.deterministic
        if self.deterministic != torch.are_deterministic_algorithms_enabled():  # which imports the compiler
            torch.use_deterministic_algorithms(self.deterministic)
        if self.compile:
            from torch._inductor import config

            config.fallback_random = True  # the same random numbers as without the compiler
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    @property
    def memory_format(self) -> torch.memory_format:
        """Return the layout of images and weights."""
        if self.channels_last:
            return torch.channels_last
        return torch.contiguous_format

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context in which a network runs."""
        if self.precision == "auto":
            return self.resolve(device).autocast(device)
        dtype = PRECISION[self.precision]
        return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)


def supports_bf16(device: torch.device) -> bool:
    """Return whether a device has bf16 units; without them bf16 is several times slower than float32.

    On x86 these are AVX512_BF16 or AMX: oneDNN also reports bf16 for any other AVX-512, where it emulates it.
    """
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    if platform.machine().lower() in X86:
        checks = [getattr(torch.cpu, name, None) for name in X86_BF16]
        return any(check() for check in checks if check is not None)
    check = _get_onednn_check()
    return torch.backends.mkldnn.is_available() and check is not None and check()


def _get_onednn_check():
    return getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)


def widest_float_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on Apple GPUs, which have no wider type."""
    if device.type == "mps":
        return torch.float32
    return torch.float64


def _check_compiler() -> None:
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    if not any(name and shutil.which(name.split()[0]) for name in names):
        raise ValueError(
            "runtime.compile=true: needs a C++ compiler; c++, g++ and clang++ were not found. Install one,"
            " set the environment variable CXX, or use runtime.compile=false."
        )
