"""What the machine is said to have, against what the kernel says of it."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from segkit.system import hardware

CPU = torch.device("cpu")
CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.exists(), reason="reads the flags that Linux lists on x86"
)
def test_a_cpu_has_bf16_where_the_kernel_lists_it():
    flags = set(CPUINFO.read_text().split("flags", 1)[1].split("\n", 1)[0].split())
    assert hardware.supports_bf16(CPU) == bool(flags & {"avx512_bf16", "amx_tile"})


def test_avx512_alone_is_not_bf16(monkeypatch):
    """oneDNN answers yes there, and emulates."""
    monkeypatch.setattr(hardware.platform, "machine", lambda: "x86_64")
    for name in hardware.X86_UNITS:
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    monkeypatch.setattr(hardware, "_onednn", lambda: lambda: True)
    assert not hardware.supports_bf16(CPU)


@pytest.mark.parametrize("answer", [True, False])
def test_an_arm_cpu_has_what_onednn_says(answer, monkeypatch):
    monkeypatch.setattr(hardware.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(hardware, "_onednn", lambda: lambda: answer)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert hardware.supports_bf16(CPU) == answer


def test_a_pytorch_without_the_question_counts_as_no(monkeypatch):
    monkeypatch.setattr(hardware.platform, "machine", lambda: "x86_64")
    for name in hardware.X86_UNITS:
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not hardware.supports_bf16(CPU)


def test_other_devices_are_not_trusted_with_bf16():
    assert not hardware.supports_bf16(torch.device("mps"))
