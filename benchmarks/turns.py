"""Run the sides of a comparison in separate processes that take turns.

Other load on the machine affects all sides, so ratios of medians of one run are reliable where seconds are
not. Peak memory is that of a side's process. A side that fails is reported and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))  # segkit of this checkout

from segkit.runtime import environment

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("smp", "torchvision", "plain_loop", "published")  # with default thread settings
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Answer = dict[str, Any]


class Side:
    """A process that does the work once for each line of input, and answers with the time it took."""

    def __init__(self, name: str, command: Sequence[str], *, threads: int) -> None:
        self.name, self.errors = name, tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `end`
        settings = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        if not name.startswith(PEERS):
            settings |= environment.THREADS
        if name.startswith("segkit"):  # a training
            settings |= environment.PAGES
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen(
            [sys.executable, *command], text=True, env={**os.environ, **settings}, **pipes
        )

    def request(self, line: str = "") -> Answer | None:
        """Send a line and return the answer, or None if the process has ended."""
        self.send(line)
        return self.read_answer()

    def send(self, line: str = "") -> None:
        """Send a line; ``read_answer`` waits for the answer."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()

    def read_answer(self) -> Answer | None:
        """Return the next line of output, or None if the process has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def error_text(self) -> str:
        """Return the exit status and the last line of errors."""
        self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines() or ["no error output"]
        return f"ended with {self.process.returncode}: {lines[-1]}"

    def close_input(self) -> None:
        """Let the process end without waiting for it."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def end(self) -> None:
        """Wait for the end of the process and close its files."""
        assert self.process.stdout is not None
        self.close_input()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def log_message(text: str) -> None:
    """Print progress to stderr."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def start_sides(commands: dict[str, Sequence[str]], *, threads: int) -> Iterator[dict[str, Side]]:
    """Start all sides; those that cannot be built are reported and left out."""
    sides = {name: Side(name, command, threads=threads) for name, command in commands.items()}
    try:
        ready = {}
        for name, side in sides.items():
            if side.read_answer() is None:
                log_message(f"  {name}: {side.error_text()}")
            else:
                ready[name] = side
                log_message(f"  {name}: built")
        yield ready
    finally:
        for side in sides.values():
            side.close_input()
        for side in sides.values():
            side.end()


def run_rounds(
    sides: dict[str, Side], *, count: int, minutes: float, warm: Sequence[str] = ("",), line: str = ""
) -> dict[str, list[Answer]]:
    """Return the counted answers of each side, one per round; sides that fail are left out.

    Args:
        sides: from ``start_sides``.
        count: counted rounds at most.
        minutes: no round starts that would end later; the first counted one always runs.
        warm: lines sent to each side before the counted rounds.
        line: sent to each side in a counted round.
    """
    start, longest = time.perf_counter(), 0.0
    answers: dict[str, list[Answer]] = {name: [] for name in sides}
    for number in range(1 - len(warm), count + 1):
        round_start = time.perf_counter()
        if number > 1 and round_start + longest - start > 60 * minutes:
            log_message(f"  {number - 1} rounds fitted into {minutes:g} minutes")
            break
        names = list(answers)
        turn = number % max(1, len(names))  # no side always follows the same one
        for name in names[turn:] + names[:turn]:
            answer = sides[name].request(line if number > 0 else warm[number - 1 + len(warm)])
            if answer is None:
                log_message(f"  {name}: {sides[name].error_text()}")
                del answers[name]
                continue
            label = f"round {number} of {count}" if number > 0 else "warm-up"
            log_message(f"  {label}, {name}: {answer['seconds']:.3f} s")
            if number > 0:
                answers[name].append(answer)
        if number > 0:
            longest = max(longest, time.perf_counter() - round_start)
    return answers


def run_sides(
    commands: dict[str, Sequence[str]], *, threads: int, count: int, alone: bool, **options: Any
) -> dict[str, list[Answer]]:
    """Start sides and run rounds; ``options`` are those of ``run_rounds``.

    With ``alone``, each side starts only after the one before has ended, so that memory is that of one.
    """
    if not alone:
        with start_sides(commands, threads=threads) as ready:
            return run_rounds(ready, count=count, **options)
    start, answers = time.perf_counter(), {name: [] for name in commands}
    for number in range(count):
        spent = time.perf_counter() - start
        if number and spent * (number + 1) / number > 60 * options["minutes"]:
            log_message(f"  {number} rounds fitted into {options['minutes']:g} minutes")
            break
        for name in [*answers]:
            with start_sides({name: commands[name]}, threads=threads) as ready:
                measured = run_rounds(ready, count=1, **options).get(name)
            if measured:
                answers[name] += measured
            else:
                del answers[name]
    return answers


def summarize(answers: dict[str, list[Answer]]) -> dict[str, Answer]:
    """Return for each side: median, fastest and slowest seconds, largest peak, and the last other figures."""
    rows = {}
    for name, rounds in answers.items():
        seconds = [answer["seconds"] for answer in rounds]
        rows[name] = rounds[-1] | {"seconds": statistics.median(seconds), "rounds": len(seconds)}
        rows[name] |= {"fastest": min(seconds), "slowest": max(seconds)}
        rows[name] |= {"peak": max(answer["peak"] for answer in rounds)}
    return rows


def time_rounds(
    ways: Mapping[str, Callable[[], Any]],
    count: int,
    *,
    clock: str = "wall",
    warm: int = 1,
    minutes: float = math.inf,
) -> dict[str, list[float]]:
    """Return the seconds that functions take in this process, one figure per round, in which they take turns.

    Args:
        ways: functions by name.
        count: counted rounds at most.
        clock: ``wall``, or ``processor`` for the CPU time of this process.
        warm: rounds before the counted ones.
        minutes: no round starts that would end later; the first counted one always runs.
    """
    now, start = CLOCKS[clock], time.perf_counter()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1 - warm, count + 1):
        done = number + warm - 1
        if number > 1 and (time.perf_counter() - start) * (done + 1) / done > 60 * minutes:
            break
        for name, way in ways.items():
            begin = now()
            way()
            took = now() - begin
            label = f"round {number} of {count}" if number > 0 else "warm-up"
            log_message(f"  {label}, {name}: {took:.3f} s")
            if number > 0:
                seconds[name].append(took)
    return seconds


def serve(build: Callable[[], Callable[[str], Answer | None]], *, clock: str, device: str = "cpu") -> None:
    """Serve as a side: build, report that, then work once for each line of input.

    Args:
        build: returns the work, a function from a line to further figures or None.
        clock: ``wall``, or ``processor`` for the CPU time of this process.
        device: ``cpu``, or ``cuda``, which is synchronized and whose memory is measured.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stderr
    work, now = build(), CLOCKS[clock]
    memory = ProcessMemory() if device == "cpu" else DeviceMemory()
    loaded = memory.reset()
    print(json.dumps({"loaded": loaded}), file=answers, flush=True)
    for line in sys.stdin:
        memory.settle()
        start = now()
        figures = work(line.strip()) or {}
        memory.settle()
        answer = {"seconds": now() - start, "peak": memory.peak(), "loaded": loaded, **figures}
        print(json.dumps(answer), file=answers, flush=True)
    answers.close()


class ProcessMemory:
    """MiB of this process, as Linux counts them."""

    def settle(self) -> None:
        """Do nothing: a call on a CPU is complete when it returns."""

    def reset(self) -> float:
        """Reset the peak and return the current use."""
        if sys.platform == "linux":
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # return freed memory
            Path("/proc/self/clear_refs").write_text("5")
        return read_mebibytes("VmRSS")

    def peak(self) -> float:
        """Return the peak since ``reset``."""
        return read_mebibytes("VmHWM")


class DeviceMemory:
    """MiB that PyTorch allocated on the GPU."""

    def __init__(self) -> None:
        import torch

        self.cuda = torch.cuda

    def settle(self) -> None:
        """Wait for the GPU."""
        self.cuda.synchronize()

    def reset(self) -> float:
        """Reset the peak and return the current use."""
        self.cuda.empty_cache()
        self.cuda.reset_peak_memory_stats()
        return self.cuda.memory_allocated() / 2**20

    def peak(self) -> float:
        """Return the peak since the last call, which leaves out the trials of the first steps."""
        peak = self.cuda.max_memory_allocated() / 2**20
        self.cuda.reset_peak_memory_stats()
        return peak


def read_mebibytes(field: str) -> float:
    """Return MiB of this process from Linux: ``VmRSS`` is the current use, ``VmHWM`` the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that prints a description as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def make_turns_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of a comparison of several processes."""
    parser = make_parser(description)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", default="wall", choices=[*CLOCKS], help="processor: on a busy machine")
    parser.add_argument("--rounds", type=int, default=5, help="maximum; results are medians")
    parser.add_argument("--minutes", type=float, default=6, help="no round starts that would end later")
    parser.add_argument("--results", type=Path, help="append the figures to this file of JSON lines")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    return parser


def side_command(file: str, given: argparse.Namespace, *names: str, worker: Sequence[str]) -> list[str]:
    """Return the command of a side: this script with the same settings."""
    command = [file]
    for name in (*names, "threads", "clock"):
        value = getattr(given, name)
        if isinstance(value, bool):
            if value:
                command.append(f"--{name}")
        elif value is not None:
            command.append(f"--{name}={value}")
    return [*command, "--worker", *worker]


def store_results(given: argparse.Namespace, part: Answer) -> None:
    """Append the figures of a table to the results."""
    if given.results:
        with given.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(part) + "\n")
