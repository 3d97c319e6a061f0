"""``profile=true``: a trace of some training steps, and a table of where their time goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

PARTS = ("data", "forward", "backward", "optimizer")  # labels of ``record_function`` in a step
STEP = "a step"
WARM_UP = 2


def profile_steps(
    batches: Iterator[Any], step: Callable[[Any], object], folder: Path, *, steps: int = 10
) -> str:
    """Run training steps under torch's profiler, after two steps to warm up.

    Args:
        batches: of the training; waiting for one counts as ``data``.
        step: takes one training step, with ``record_function`` around ``forward``, ``backward`` and
            ``optimizer``.
        folder: receives ``trace.json.gz``, for chrome://tracing or ui.perfetto.dev.
        steps: recorded.

    Returns:
        A table of milliseconds per step by part, and the costliest operators.

    Raises:
        ValueError: the batches end too soon.
    """

    def next_batch() -> Any:
        batch = next(batches, None)
        if batch is None:
            raise ValueError(
                f"profile=true: takes {WARM_UP + steps} steps, and the schedule is shorter. Lengthen it."
            )
        return batch

    has_cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU]
    if has_cuda:
        activities.append(ProfilerActivity.CUDA)
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(WARM_UP):
        step(next_batch())
    with profile(activities=activities, acc_events=True) as profiler:
        for _ in range(steps):
            with record_function(STEP):
                with record_function("data"):
                    batch = next_batch()
                step(batch)
                if has_cuda:
                    torch.cuda.synchronize()
    profiler.export_chrome_trace(str(folder / "trace.json.gz"))
    return _format_table(profiler.key_averages(), steps=steps, has_cuda=has_cuda)


def _format_table(averages: list, *, steps: int, has_cuda: bool) -> str:
    """Return times per step in ms; with a GPU the host's times include waiting for it."""
    events = {event.key: event for event in averages}

    def format_row(name: str, microseconds: float, end: str = "") -> str:
        return f"{name[:39]:<40}{microseconds / steps / 1000:>10.2f}{end:>9}".rstrip()

    total = events[STEP].cpu_time_total
    parts = {part: events[part].cpu_time_total for part in PARTS if part in events}
    parts["the rest"] = total - sum(parts.values())
    lines = [f"{'part of a step':<40}{'ms':>10}{'share':>9}"]
    lines += [format_row(part, time, f"{time / total:.1%}") for part, time in parts.items()]
    lines += [format_row(STEP, total), "", f"{'costliest operators':<40}{'ms':>10}{'calls':>9}"]
    attribute = "self_device_time_total" if has_cuda else "self_cpu_time_total"
    times = {key: getattr(event, attribute) for key, event in events.items() if key not in (*PARTS, STEP)}
    for key in sorted(times, key=times.__getitem__, reverse=True)[:8]:
        lines.append(format_row(key, times[key], f"{events[key].count / steps:.1f}"))
    return "\n".join(lines)
