"""Sides of a measurement, each in a fresh process of its own, that take turns.

What else the machine does meets all sides, so ratios of medians of one run stand where seconds would not. A
process holds nothing but its side, so its peak memory is that side's. A side that cannot run is reported and
left out; the others go on.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))  # segkit of this checkout

from segkit.runtime import environment

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("smp", "torchvision", "plain_loop", "published")  # their threads wait as they do by themselves
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Answer = dict[str, Any]


class Side:
    """A process that works once for each line it is given, and says how long it took."""

    def __init__(self, name: str, command: Sequence[str], *, threads: int) -> None:
        self.name, self.errors = name, tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `end`
        settings = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        trains = name.startswith("segkit")  # others of ours predict
        pages = environment.PAGES if trains else {}
        settings |= {} if name.startswith(PEERS) else environment.THREADS | pages
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen(
            [sys.executable, *command], text=True, env={**os.environ, **settings}, **pipes
        )

    def ask(self, what: str = "") -> Answer | None:
        """Its answer to a line; none if the process has ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{what}\n")
            self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Answer | None:
        """The next line it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def last_words(self) -> str:
        """Why it ended."""
        self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines() or ["it said nothing"]
        return f"ended with {self.process.returncode}: {lines[-1]}"

    def dismiss(self) -> None:
        """Let the process end; nobody waits for it yet."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def end(self) -> None:
        """Wait for the end of the process, and close what is open."""
        assert self.process.stdout is not None
        self.dismiss()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def say(text: str) -> None:
    """Progress, beside what a table is read from."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def started(commands: dict[str, Sequence[str]], *, threads: int) -> Iterator[dict[str, Side]]:
    """All sides, built and waiting; those that could not be built are reported and left out."""
    sides = {name: Side(name, command, threads=threads) for name, command in commands.items()}
    try:
        ready = {}
        for name, side in sides.items():
            if side.answer() is None:
                say(f"  {name}: {side.last_words()}")
            else:
                ready[name] = side
                say(f"  {name}: built")
        yield ready
    finally:
        for side in sides.values():
            side.dismiss()
        for side in sides.values():
            side.end()


def rounds(
    sides: dict[str, Side], *, most: int, minutes: float, warm: Sequence[str] = ("",), what: str = ""
) -> dict[str, list[Answer]]:
    """The counted answers of each side, one a round; sides that fail are left out.

    Args:
        sides: as ``started`` gives them.
        most: counted rounds.
        minutes: no further round begins that would end later than this; the first counted one always runs.
        warm: what each side is asked before anything counts.
        what: what each side is asked in a counted round.
    """
    start, longest = time.perf_counter(), 0.0
    answers: dict[str, list[Answer]] = {name: [] for name in sides}
    for number in range(1 - len(warm), most + 1):
        begun = time.perf_counter()
        if number > 1 and begun + longest - start > 60 * minutes:
            say(f"  {number - 1} rounds fitted into {minutes:g} minutes")
            break
        names = list(answers)
        turn = number % max(1, len(names))  # nobody always comes after the same neighbor
        for name in names[turn:] + names[:turn]:
            found = sides[name].ask(warm[number - 1 + len(warm)] if number < 1 else what)
            if found is None:
                say(f"  {name}: {sides[name].last_words()}")
                del answers[name]
                continue
            label = f"round {number} of {most}" if number > 0 else "warming up"
            say(f"  {label}, {name}: {found['seconds']:.3f} s")
            if number > 0:
                answers[name].append(found)
        longest = max(longest, time.perf_counter() - begun) if number > 0 else longest
    return answers


def alone(
    commands: dict[str, Sequence[str]], *, threads: int, most: int, **how: Any
) -> dict[str, list[Answer]]:
    """As ``started`` and ``rounds``, but each side starts anew in each round, when the one before has ended.

    For sides that do not fit into memory together; ``how`` is for ``rounds``.
    """
    start, longest = time.perf_counter(), 0.0
    answers: dict[str, list[Answer]] = {name: [] for name in commands}
    for number in range(most):
        begun = time.perf_counter()
        if number and begun + longest - start > 60 * how["minutes"]:
            say(f"  {number} rounds fitted into {how['minutes']:g} minutes")
            break
        for name in list(answers):
            with started({name: commands[name]}, threads=threads) as ready:
                found = rounds(ready, most=1, **how).get(name)
            if found:
                answers[name] += found
            else:
                del answers[name]
        longest = max(longest, time.perf_counter() - begun)
    return answers


def medians(answers: dict[str, list[Answer]]) -> dict[str, Answer]:
    """Of each side: median, fastest and slowest seconds, the largest peak, and its other last figures."""
    rows = {}
    for name, found in answers.items():
        seconds = [answer["seconds"] for answer in found]
        rows[name] = found[-1] | {"seconds": statistics.median(seconds), "rounds": len(seconds)}
        rows[name] |= {"fastest": min(seconds), "slowest": max(seconds)}
        rows[name] |= {"peak": max(answer["peak"] for answer in found)}
    return rows


def serve(build: Callable[[], Callable[[str], Answer | None]], *, clock: str, device: str = "cpu") -> None:
    """Be a side: build, say so, then work once for each line that comes in.

    Args:
        build: gives the work: a function from a line to further figures, or none.
        clock: ``wall``, or ``processor`` for the time this process's threads worked.
        device: ``cpu``, or ``cuda``, which is waited for, and whose memory is the peak then.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    work, now = build(), CLOCKS[clock]
    memory = ProcessMemory() if device == "cpu" else DeviceMemory()
    loaded = memory.reset()
    print(json.dumps({"loaded": loaded}), file=answers, flush=True)
    for line in sys.stdin:
        memory.settle()
        start = now()
        further = work(line.strip()) or {}
        memory.settle()
        found = {"seconds": now() - start, "peak": memory.peak(), "loaded": loaded, **further}
        print(json.dumps(found), file=answers, flush=True)
    answers.close()


class ProcessMemory:
    """MiB of this process, as Linux counts them."""

    def settle(self) -> None:
        """Nothing is under way once a call returns."""

    def reset(self) -> float:
        """Let the peak start anew, without what building took; what is held now."""
        if sys.platform == "linux":
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed is no longer counted as ours
            Path("/proc/self/clear_refs").write_text("5")
        return mebibytes("VmRSS")

    def peak(self) -> float:
        """The most since ``reset``."""
        return mebibytes("VmHWM")


class DeviceMemory:
    """MiB that PyTorch allocated on the GPU."""

    def __init__(self) -> None:
        import torch

        self.cuda = torch.cuda

    def settle(self) -> None:
        """Wait for what was begun."""
        self.cuda.synchronize()

    def reset(self) -> float:
        """Let the peak start anew; what is held now."""
        self.cuda.empty_cache()
        self.cuda.reset_peak_memory_stats()
        return self.cuda.memory_allocated() / 2**20

    def peak(self) -> float:
        """The most since ``reset``."""
        return self.cuda.max_memory_allocated() / 2**20


def mebibytes(what: str) -> float:
    """MiB of this process by Linux's name: ``VmRSS`` is held now, ``VmHWM`` the most since a reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every measurement takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", default="wall", choices=[*CLOCKS], help="processor: on a busy machine")
    parser.add_argument("--rounds", type=int, default=5, help="at most; the median counts")
    parser.add_argument("--minutes", type=float, default=6, help="no round begins that would end later")
    parser.add_argument("--results", type=Path, help="a file of JSON lines to add the figures to")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    return parser


def as_side(file: str, given: argparse.Namespace, *names: str, worker: Sequence[str]) -> list[str]:
    """The command of a side: this script with the same settings."""
    command = [file]
    for name in (*names, "threads", "clock"):
        value = getattr(given, name)
        if isinstance(value, bool):
            command += [f"--{name}"] * value
        elif value is not None:
            command.append(f"--{name}={value}")
    return [*command, "--worker", *worker]


def keep(given: argparse.Namespace, part: Answer) -> None:
    """Add one table's figures to the results."""
    if given.results:
        with given.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(part) + "\n")


def kept(results: Path | None) -> list[Answer]:
    """All tables of a file of results."""
    if results is None or not results.is_file():
        raise SystemExit(f"--results={results}: name the file of JSON lines that earlier calls wrote")
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
