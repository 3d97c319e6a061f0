"""Where the time of training goes: a trace to look at and a table of the parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

PARTS = ("data", "forward", "backward", "optimizer")  # names that a step gives with `record_function`
WHOLE = "a step"
WARM_UP = 2


def profile_steps(
    batches: Iterator[Any], step: Callable[[Any], object], folder: Path, *, steps: int = 10
) -> str:
    """Run some training steps under torch's profiler.

    Args:
        batches: what waiting for is called ``data``; two more are taken to warm up.
        step: does one training step, with its parts inside ``torch.profiler.record_function`` of the names
            ``forward``, ``backward`` and ``optimizer``.
        folder: receives ``trace.json.gz``, to open in chrome://tracing or ui.perfetto.dev.
        steps: how many are recorded.

    Returns:
        A table of milliseconds per step and part, and the costliest operators.

    Raises:
        ValueError: the batches end too soon.
    """
    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(WARM_UP):
        step(_next(batches, steps))
    with profile(activities=activities, acc_events=True) as profiler:
        for _ in range(steps):
            with record_function(WHOLE):
                with record_function("data"):
                    batch = _next(batches, steps)
                step(batch)
                if cuda:
                    torch.cuda.synchronize()
    profiler.export_chrome_trace(str(folder / "trace.json.gz"))
    return _table(profiler.key_averages(), steps=steps, cuda=cuda)


def _next(batches: Iterator[Any], steps: int) -> Any:
    batch = next(batches, None)
    if batch is None:
        raise ValueError(
            f"profiling takes {WARM_UP + steps} steps, but the schedule ends before; lengthen it"
        )
    return batch


def _table(averages: list, *, steps: int, cuda: bool) -> str:
    """Times per step in ms; on a GPU the host's clock also counts waiting for it."""
    by_name = {event.key: event for event in averages}
    whole = by_name[WHOLE].cpu_time_total / steps / 1000
    parts = {part: by_name[part].cpu_time_total / steps / 1000 for part in PARTS if part in by_name}
    parts["the rest"] = whole - sum(parts.values())
    lines = [f"{'part of a step':<40}{'ms':>10}{'share':>9}"]
    lines += [f"{part:<40}{ms:>10.2f}{ms / whole:>9.1%}" for part, ms in parts.items()]
    lines += [f"{WHOLE:<40}{whole:>10.2f}", "", f"{'costliest operators':<40}{'ms':>10}{'calls':>9}"]

    def own(event: object) -> float:
        return getattr(event, "self_device_time_total" if cuda else "self_cpu_time_total")

    operators = [e for e in averages if e.key not in (*PARTS, WHOLE)]
    for event in sorted(operators, key=own, reverse=True)[:8]:
        lines.append(f"{event.key[:39]:<40}{own(event) / steps / 1000:>10.2f}{event.count / steps:>9.1f}")
    return "\n".join(lines)
