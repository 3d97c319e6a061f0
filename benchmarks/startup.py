"""How long commands take before they do what they are for, and what they import until then.

    python benchmarks/startup.py [--rounds 5]
    python benchmarks/startup.py imports

`--help` of each command; from `train_seg.py experiment=demo`, as typed, to the end of its first training
step; and the whole of `test_seg.py` on one image of 32x32, which is overhead. Seconds on the clock and of the
processor, medians of rounds after one that writes bytecode and fills the disk's cache. `imports` is where the
time of imports goes, by package (`python -X importtime`).
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import ceilings
import turns

# Ends the command when its first step is done; nothing is imported that the command would not import itself.
FIRST_STEP = """
import multiprocessing, os, runpy, sys, threading, time
def wait():
    while getattr(training := sys.modules.get("segkit.training"), "train_step", None) is None:
        time.sleep(0.005)
    step = training.train_step
    def once(*given, **named):
        step(*given, **named)
        for worker in multiprocessing.active_children():
            worker.kill()
        os._exit(0)
    training.train_step = once
threading.Thread(target=wait, daemon=True).start()
sys.argv = sys.argv[1:]
sys.path.insert(0, ".")
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TINY = ["experiment=demo", "data.size=32", "data.val_scenes=1", "augment.crop_size=32"]
TINY += ["model.backbone.width=8", "model.head.width=8", "schedule.iterations=1", "schedule.batch_size=2"]
TINY += ["schedule.lr_schedule.warmup_iterations=0", "evaluation.every=1", "loader.workers=0"]
BARS = {"first step": 8.0, "test_seg.py": 5.0}  # seconds on two idle cores; --help: 1


def environment(place: Path) -> dict[str, str]:
    """That of the commands: bytecode is written, in a place of its own."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(place / "bytecode")}


def timed(command: list[str], place: Path) -> tuple[float, float]:
    """Seconds on the clock and of the processor that a command takes; one that fails ends the measurement."""
    said = place / "said"  # a pipe would stay open until the loader's workers have ended, too
    how: dict = {"cwd": turns.ROOT, "env": environment(place), "stderr": subprocess.STDOUT, "check": False}
    with said.open("w") as file:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        found = subprocess.run([sys.executable, *command], stdout=file, **how)
        took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if found.returncode:
        raise SystemExit(f"{' '.join(command[-3:])} ended with {found.returncode}: {said.read_text()[-500:]}")
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def commands(place: Path) -> dict[str, list[str]]:
    """What is timed, by name; a checkpoint is made for the one that needs it."""
    ways = {f"{name} --help": [name, "--help"] for name in ("train_seg.py", "test_seg.py", "predict_seg.py")}
    demo = ["train_seg.py", "experiment=demo", f"run_dir={place}/demo"]
    ways["first step"] = ["-c", FIRST_STEP, *demo]
    timed(["train_seg.py", *TINY, f"run_dir={place}", "run_name=tiny"], place)
    ways["test_seg.py"] = ["test_seg.py", f"checkpoint={place}/tiny/best.pt"]
    return ways


def fresh(name: str, number: int, place: Path) -> list[str]:
    """A folder for what a round writes."""
    folders = {"first step": f"run_name=demo{number}", "test_seg.py": f"output={place}/scored{number}"}
    return [folders[name]] if name in folders else []


def measure(given: argparse.Namespace) -> None:
    """Print one table."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ways = commands(place)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(given.rounds + 1):
            for name, command in ways.items():
                found[name].append(timed([*command, *fresh(name, number, place)], place))
                turns.log_message(f"  round {number} of {given.rounds}, {name}: {found[name][-1][0]:.2f} s")
    print(f"{ceilings.machine(os.cpu_count() or 1)}; medians of {given.rounds}\n")
    print("| what | s on the clock (fastest to slowest) | s of the processor | bar |\n|---|---|---|---|")
    for name, each in found.items():
        wall, processor = ([pair[which] for pair in each[1:]] for which in (0, 1))
        spread = f"{statistics.median(wall):.2f} ({min(wall):.2f} to {max(wall):.2f})"
        print(f"| {name} | {spread} | {statistics.median(processor):.2f} | {BARS.get(name, 1.0):g} s |")


def imports() -> None:
    """Print a table of each command: milliseconds and modules by package, the dearest first."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, command in commands(place).items():
            sums: collections.Counter[str] = collections.Counter()
            modules: collections.Counter[str] = collections.Counter()
            how: dict = {"cwd": turns.ROOT, "env": environment(place), "capture_output": True, "text": True}
            lines: list[tuple[str, str]] = []
            for number in range(2):  # the first writes bytecode
                words = ["-X", "importtime", *command, *fresh(name, number, place)]
                told = subprocess.run([sys.executable, *words], check=False, **how).stderr
                lines = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)", told)
            for taken, module in lines:
                sums[module.split(".")[0]] += int(taken)
                modules[module.split(".")[0]] += 1
            print(f"\n{name}: {len(lines)} modules, {sum(sums.values()) / 1e6:.2f} s of imports\n")
            print("| package | ms | modules |\n|---|---|---|")
            for package, taken in sums.most_common(12):
                print(f"| {package} | {taken / 1000:.0f} | {modules[package]} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", default="measure", choices=["measure", "imports"])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    measure(given) if given.what == "measure" else imports()
