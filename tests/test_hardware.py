"""Detected processor features equal those of the kernel, and settings of the user are kept."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from segkit.runtime import environment, precision

CPU = torch.device("cpu")
CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.exists(), reason="reads the flags that Linux lists on x86"
)
def test_cpu_supports_bf16_if_the_kernel_lists_it():
    flags = set(CPUINFO.read_text().split("flags", 1)[1].split("\n", 1)[0].split())
    assert precision.supports_bf16(CPU) == bool(flags & {"avx512_bf16", "amx_tile"})


@pytest.mark.parametrize(
    ("machine", "onednn", "expected"),
    [("x86_64", True, False), ("aarch64", True, True), ("aarch64", False, False)],
)
def test_bf16_needs_instructions_on_x86_and_follows_onednn_on_arm(machine, onednn, expected, monkeypatch):
    """On x86 with AVX-512 alone, oneDNN answers yes and emulates."""
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, precision.X86_BF16[0], lambda: False, raising=False)
    for name in precision.X86_BF16[1:]:  # a version of PyTorch without this check
        monkeypatch.delattr(torch.cpu, name, raising=False)
    monkeypatch.setattr(precision, "_get_onednn_check", lambda: lambda: onednn)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert precision.supports_bf16(CPU) == expected
    assert not precision.supports_bf16(torch.device("mps"))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "ACTIVE", "THP_MEM_ALLOC_ENABLE": "0"}])
def test_thread_settings_of_the_user_are_kept(training, chosen):
    with mock.patch.dict(os.environ):
        for name in environment.THREADS | environment.PAGES:
            os.environ.pop(name, None)
        os.environ.update(chosen)
        environment.set_thread_env(training=training)
        found = os.environ["OMP_WAIT_POLICY"], os.environ.get("THP_MEM_ALLOC_ENABLE")
    assert found == (("ACTIVE", "0") if chosen else ("PASSIVE", "1" if training else None))


ALLOCATE = """
import torch
held = [torch.empty(2**21 + 64 * index, dtype=torch.uint8) for index in range(40)]
print(sum(each.data_ptr() % 4096 == 0 for each in held))
"""


@pytest.mark.medium
@pytest.mark.parametrize("pages", [environment.PAGES, {}], ids=["training", "prediction"])
@pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")
def test_large_tensors_are_page_aligned_in_training(pages):
    """That PyTorch still knows the name: an unknown one would be passed over in silence."""
    clean = {key: value for key, value in os.environ.items() if key not in environment.PAGES}
    command = [sys.executable, "-c", ALLOCATE]
    done = subprocess.run(command, env=clean | pages, capture_output=True, text=True, check=True)
    assert (int(done.stdout) == 40) == bool(pages)
