"""Start-up time of the commands.

    python benchmarks/startup.py [--rounds 5]

Measures `--help` of each command, `train_seg.py experiment=demo` to the end of its first training step, and
`test_seg.py` on one image of 32x32, which is overhead. Wall time, medians of rounds after one that writes
bytecode and fills the disk cache. See `python -X importtime` for the time of imports.
"""

from __future__ import annotations

import functools
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

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


def run_command(command: list[str], place: Path) -> None:
    """Run a command; exit if it fails."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    variables["PYTHONPYCACHEPREFIX"] = str(place / "bytecode")
    log = place / "log"  # a pipe would stay open until the loader's workers end
    how: dict = {"cwd": turns.ROOT, "env": variables, "stderr": subprocess.STDOUT, "check": False}
    with log.open("w") as file:
        found = subprocess.run([sys.executable, *command], stdout=file, **how)
    if found.returncode:
        raise SystemExit(f"{' '.join(command[-3:])} ended with {found.returncode}: {log.read_text()[-500:]}")


def main() -> None:
    """Print one table."""
    parser = turns.make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place, number = Path(folder), itertools.count()
        run_command(["train_seg.py", *TINY, f"run_dir={place}", "run_name=tiny"], place)

        def take_step() -> None:
            demo = ["train_seg.py", "experiment=demo", f"run_dir={place}", f"run_name=demo{next(number)}"]
            run_command(["-c", FIRST_STEP, *demo], place)

        def score() -> None:
            output = f"output={place}/test{next(number)}"
            run_command(["test_seg.py", f"checkpoint={place}/tiny/best.pt", output], place)

        ways = {
            f"{name} --help": functools.partial(run_command, [name, "--help"], place)
            for name in ("train_seg.py", "test_seg.py", "predict_seg.py")
        }
        seconds = turns.time_rounds({**ways, "first step": take_step, "test_seg.py": score}, given.rounds)
    print(f"{ceilings.describe_machine(os.cpu_count() or 1)}; medians of {given.rounds}\n")
    print("| command | s (fastest to slowest) |\n|---|---|")
    for name, wall in seconds.items():
        print(f"| {name} | {statistics.median(wall):.2f} ({min(wall):.2f} to {max(wall):.2f}) |")


if __name__ == "__main__":
    main()
