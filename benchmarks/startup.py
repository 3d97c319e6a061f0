"""Start-up time of the commands.

    python benchmarks/startup.py [--rounds 5]

Measures `--help` of each command, `train_seg.py experiment=demo` to the end of its first training step, and
`test_seg.py` on one image of 32x32, which is overhead. Wall time, medians of rounds after one that writes
bytecode and fills the disk cache. See `python -X importtime` for the time of imports.
"""

from __future__ import annotations

import argparse
import os
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


def time_command(command: list[str], place: Path) -> float:
    """Return the wall time of a command, in seconds; exit if it fails."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    variables["PYTHONPYCACHEPREFIX"] = str(place / "bytecode")
    log = place / "log"  # a pipe would stay open until the loader's workers end
    how: dict = {"cwd": turns.ROOT, "env": variables, "stderr": subprocess.STDOUT, "check": False}
    with log.open("w") as file:
        start = time.perf_counter()
        found = subprocess.run([sys.executable, *command], stdout=file, **how)
        took = time.perf_counter() - start
    if found.returncode:
        raise SystemExit(f"{' '.join(command[-3:])} ended with {found.returncode}: {log.read_text()[-500:]}")
    return took


def commands(place: Path) -> dict[str, list[str]]:
    """Return the commands by name, after making the checkpoint that one of them needs."""
    ways = {f"{name} --help": [name, "--help"] for name in ("train_seg.py", "test_seg.py", "predict_seg.py")}
    demo = ["train_seg.py", "experiment=demo", f"run_dir={place}/demo"]
    ways["first step"] = ["-c", FIRST_STEP, *demo]
    time_command(["train_seg.py", *TINY, f"run_dir={place}", "run_name=tiny"], place)
    ways["test_seg.py"] = ["test_seg.py", f"checkpoint={place}/tiny/best.pt"]
    return ways


def measure(given: argparse.Namespace) -> None:
    """Print one table."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ways = commands(place)
        found: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(given.rounds + 1):
            outputs = {"first step": [f"run_name=demo{number}"], "test_seg.py": [f"output={place}/{number}"]}
            for name, command in ways.items():
                found[name].append(time_command([*command, *outputs.get(name, [])], place))
                turns.log_message(f"  round {number} of {given.rounds}, {name}: {found[name][-1]:.2f} s")
    print(f"{ceilings.describe_machine(os.cpu_count() or 1)}; medians of {given.rounds}\n")
    print("| command | s (fastest to slowest) |\n|---|---|")
    for name, (_, *wall) in found.items():
        print(f"| {name} | {statistics.median(wall):.2f} ({min(wall):.2f} to {max(wall):.2f}) |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    measure(parser.parse_args())
