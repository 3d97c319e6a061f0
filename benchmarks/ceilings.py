"""Peak GFLOP/s of this machine in large matrix products, and the GFLOP of a network.

    python benchmarks/ceilings.py [--threads 2] [--device cuda]

Products of 2048 x 2048 in float32, bf16 and int8 by the fastest of BLAS and oneDNN: on all threads, on one
core alone, and on one core while the others do the same. On a GPU 8192 x 8192 in float32 and bf16.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import turns

SIDE = {"cpu": 2048, "cuda": 8192}
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def measure_products(clock: str = "wall", seconds: float = 1.5, *, device: str = "cpu") -> dict[str, float]:
    """Return GFLOP/s of this process by number format, each measured for ``seconds``."""
    import torch

    now, side = turns.CLOCKS[clock], SIDE[device]
    settle = (turns.ProcessMemory() if device == "cpu" else turns.DeviceMemory()).settle

    def best(product: Any) -> float:
        taken, end = [], time.perf_counter() + seconds
        while len(taken) < 2 or time.perf_counter() < end:  # the first one packs and allocates
            settle()
            start = now()
            product()
            settle()
            taken.append(now() - start)
        return 2 * side**3 / min(taken) / 1e9

    found = {}
    for kind in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
        ways: list[Any] = [lambda a=a, b=b: a @ b]
        linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
        if device == "cpu" and torch.backends.mkldnn.is_available() and linear is not None:
            ways.append(lambda a=a, b=b, linear=linear: linear(a, b, None, "none", [], ""))
        name = "bf16" if kind == torch.bfloat16 else "float32"
        with torch.inference_mode():
            found[name] = max(best(way) for way in ways)
    fast = {"avx512_vnni", "amx_int8"} & {*cpu_flags()}  # without them PyTorch multiplies in a plain loop
    if device == "cpu" and fast:
        a = torch.randint(-127, 127, (side, side), dtype=torch.int8)
        found["int8"] = best(lambda: torch._int_mm(a, a))
    return found


def measure(threads: int, clock: str = "wall", device: str = "cpu") -> dict[str, dict[str, float]]:
    """Return GFLOP/s on all threads, of one core alone, and of the slowest of several busy cores.

    With CPU time all are of one core. For a GPU there is only ``all``.
    """
    if device != "cpu":
        return {"all": measure_products(clock, device=device)}

    def together(processes: int, each: int) -> list[dict[str, float]]:
        settings = {**os.environ, "OMP_NUM_THREADS": str(each)}
        command = [sys.executable, __file__, "--worker", "--clock", clock]
        how: Any = {"stdout": subprocess.PIPE, "text": True, "env": settings}
        running = [subprocess.Popen(command, **how) for _ in range(processes)]
        return [json.loads(process.communicate()[0]) for process in running]

    beside = together(threads, 1)
    slowest = {kind: min(each[kind] for each in beside) for kind in beside[0]}
    return {"all": together(1, threads)[0], "alone": together(1, 1)[0], "beside": slowest}


def format_ceilings(ceilings: dict[str, dict[str, float]]) -> str:
    """Return one line per number format."""
    lines = []
    for kind in ceilings["all"]:
        if "alone" not in ceilings:
            lines.append(f"matrix products, {kind}: {ceilings['all'][kind]:.0f} GFLOP/s")
            continue
        whole, alone, beside = (ceilings[how][kind] for how in ("all", "alone", "beside"))
        lines.append(
            f"matrix products, {kind}: {whole:.0f} GFLOP/s on all threads; "
            f"one core {alone:.0f} alone, {beside:.0f} beside a busy one"
        )
    return "\n".join(lines)


def count_gigaflops(build: Callable[[], Any], size: tuple[int, int], *, batch: int = 1) -> float:
    """Return the GFLOP of a forward pass of a network."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build().eval()(torch.zeros(batch, 3, *size))
    return counter.get_total_flops() / 1e9


def cpu_flags() -> list[str]:
    """Return the processor's instruction sets that matter here."""
    cpuinfo = Path("/proc/cpuinfo")
    tokens = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return [flag for flag in FLAGS if flag in tokens]


def describe_machine(threads: int, device: str = "cpu") -> str:
    """Return the hardware and the version of PyTorch."""
    import torch

    version = f"torch {torch.__version__.split('+')[0]}"
    if device != "cpu":
        return f"{torch.cuda.get_device_name()}, {version}"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    named = f"{model or platform.processor()} ({', '.join(cpu_flags())})"
    return f"{named}, {threads} of {os.cpu_count()} cores, {version}"


if __name__ == "__main__":
    parser = turns.make_parser(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", default="wall", choices=[*turns.CLOCKS])
    parser.add_argument("--device", default="cpu", choices=[*SIDE])
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(measure_products(given.clock)))
    else:
        print(describe_machine(given.threads, given.device))
        print(format_ceilings(measure(given.threads, given.clock, given.device)))
