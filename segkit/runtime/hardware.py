"""What the machine can compute fast, asked of the machine."""

from __future__ import annotations

import platform
from collections.abc import Callable

import torch

X86 = ("x86_64", "amd64", "i686", "i386")  # what ``platform.machine`` calls them, in small letters
X86_UNITS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private: absent in some versions


def supports_bf16(device: torch.device) -> bool:
    """Whether the device has units for bf16; without them bf16 runs, but several times slower than float32.

    On x86 these are AVX512_BF16 or AMX. oneDNN's own answer is not enough there: it says yes to any AVX-512,
    where it emulates bf16. Elsewhere (ARM) it asks for the instruction itself.
    """
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    if platform.machine().lower() in X86:
        return any(_says(getattr(torch.cpu, name, None)) for name in X86_UNITS)
    return torch.backends.mkldnn.is_available() and _says(_onednn())


def widest_float_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no wider one (Apple's GPUs)."""
    return torch.float32 if device.type == "mps" else torch.float64


def _onednn() -> Callable[[], bool] | None:
    return getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)


def _says(question: Callable[[], bool] | None) -> bool:
    """The answer, or False where this PyTorch does not know the question."""
    return question is not None and bool(question())
