"""Test and measure segkit on one GPU, in at most eight minutes (make gpu).

    python benchmarks/gpu.py [--fresh] [--parts NAME ...]
    python benchmarks/gpu.py --device cpu --quick           the same code with tiny sizes

Figures are printed as soon as they are known, and written to ``results.json`` and ``results.md`` in
``runs/gpu`` with each figure. A second call runs the parts that are not complete. A part whose packages are
missing (requirements/gpu.in) is skipped. A part that fails or takes too long is reported, the others run,
and the exit status is 1. A part may also use the time that earlier ones left. ``benchmarks/gpu_parts.py`` has
the parts.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import turns

from segkit import __version__
from segkit.runtime import files

TRAINING = ["torchvision", "hydra", "pydantic", "filelock", "albumentations", "cv2", "tensorboard"]
TRAINING += ["tifffile", "yaml", "PIL", "tqdm", "matplotlib", "scipy"]
PARTS: dict[str, tuple[int, list[str]]] = {  # seconds, and modules that it needs
    "ceiling": (20, []),
    "evaluation": (40, TRAINING),
    "training": (60, TRAINING),
    "tests": (110, [*TRAINING, "pytest", "pytest_timeout", "hypothesis"]),
    "step_50": (90, TRAINING),  # the networks are compiled
    "step_101": (140, TRAINING),
}
Figure = dict[str, Any]  # figure, value, unit; perhaps ratio and peer, share, skipped


def start_part(name: str, given: argparse.Namespace, limit: float) -> Iterator[Figure]:
    """Run a part in a separate process, and yield its figures.

    Raises:
        RuntimeError: the part has failed, or took longer than ``limit`` seconds.
    """
    log = given.output / f"{name}.log"
    command = [sys.executable, str(turns.ROOT / "benchmarks/gpu_parts.py"), name, "--device", given.device]
    command += ["--output", str(given.output), "--parent", str(os.getpid())]
    if given.quick:
        command.append("--quick")
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(given.output / "compiled")}
    with log.open("w") as errors:
        how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": errors, "cwd": turns.ROOT, "text": True}
        process = subprocess.Popen(command, start_new_session=True, env={**cache, **os.environ}, **how)
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit, end)
    timer.start()
    with process:
        try:
            assert process.stdout is not None
            yield from map(json.loads, process.stdout)
            status = process.wait()
        finally:
            timer.cancel()
            with contextlib.suppress(ProcessLookupError):  # also what the part has started
                os.killpg(process.pid, signal.SIGKILL)
    if is_late.is_set():
        raise RuntimeError(f"stopped after its limit of {limit:.0f} s")
    if status:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no error output"]
        raise RuntimeError(f"{lines[-1]} (exit status {status}, {log})")


def format_figure(figure: Figure) -> list[str]:
    """Return name, value, ratio and share as text."""
    value = figure["value"]
    text = f"{value:.1f}" if isinstance(value, float) and value >= 100 else f"{value}"
    ratio = f"{figure['ratio']:.2f}x {figure['peer']}" if "ratio" in figure else ""
    share = f"{figure['share']:.0%}" if "share" in figure else ""
    return [figure["figure"], f"{text} {figure['unit']}".strip(), ratio, share]


def store(output: Path, results: dict[str, Any]) -> None:
    """Write the results as JSON and as tables in Markdown."""
    with files.atomic_write(output / "results.json") as file:
        file.write((json.dumps(results, indent=1) + "\n").encode())
    lines = ["# Results of make gpu", ""]
    lines += [f"* {name}: {value}" for name, value in results["setup"].items()]
    lines += [f"* {name}: {part['status']} ({part['seconds']} s)" for name, part in results["parts"].items()]
    lines += ["", "| part | figure | value | speed ratio | share of the ceiling |", "|---|---|---|---|---|"]
    for name, part in results["parts"].items():
        lines += [f"| {name} | {' | '.join(format_figure(figure))} |" for figure in part["figures"]]
    with files.atomic_write(output / "results.md") as file:
        file.write(("\n".join(lines) + "\n").encode())


def run_parts(given: argparse.Namespace, results: dict[str, Any]) -> None:
    """Run the parts that are not complete, and store each figure."""
    spare = 0.0
    for name in given.parts:
        part = results["parts"].get(name, {})
        if part.get("status") == "complete":
            print(f"{name}: complete since an earlier call", flush=True)
            continue
        part = results["parts"][name] = {"status": "interrupted", "seconds": 0, "figures": []}
        missing = [module for module in PARTS[name][1] if importlib.util.find_spec(module) is None]
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            part["status"] = f"skipped: {', '.join(missing)} {verb} not installed"
            print(f"{name}: {part['status']}", flush=True)
            store(given.output, results)
            continue
        start, limit = time.perf_counter(), PARTS[name][0] * given.patience + spare
        try:
            for figure in start_part(name, given, limit):
                part["figures"].append(figure)
                part["seconds"] = round(time.perf_counter() - start)
                store(given.output, results)
                print(f"{name}: {'  '.join(text for text in format_figure(figure) if text)}", flush=True)
            skipped = [figure["value"] for figure in part["figures"] if figure.get("skipped")]
            part["status"] = skipped[0] if skipped else "complete"
        except RuntimeError as error:
            part["status"] = f"failed: {error}"
            print(f"{name}: {part['status']}", flush=True)
        spare = max(0.0, limit - (time.perf_counter() - start))
        part["seconds"] = round(time.perf_counter() - start)
        store(given.output, results)


def describe_setup(given: argparse.Namespace) -> dict[str, str]:
    """Return what the results depend on; results of another setup are dropped.

    Raises:
        SystemExit: there is no PyTorch or no GPU.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise SystemExit(f"PyTorch is not installed in {sys.executable}") from None
    setup = {"segkit": __version__, "torch": torch.__version__, "python": platform.python_version()}
    if given.device == "cpu":
        setup["device"] = "cpu"
    elif torch.cuda.is_available():
        setup["device"] = torch.cuda.get_device_name(0)
    else:
        raise SystemExit("torch finds no CUDA device. --device cpu --quick runs the same code on a CPU")
    return setup | {"sizes": "quick" if given.quick else "full"}


def main() -> None:
    """Run all parts and exit with 1 if one has failed."""
    parser = turns.make_parser(__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, whose figures mean nothing")
    parser.add_argument("--parts", nargs="+", default=[*PARTS], choices=[*PARTS])
    parser.add_argument("--output", type=Path, default=turns.ROOT / "runs" / "gpu")
    parser.add_argument("--fresh", action="store_true", help="run complete parts again")
    given = parser.parse_args()
    given.patience = 5 if given.quick else 1  # the time limits are those of a GPU
    given.output = given.output.resolve()
    given.output.mkdir(parents=True, exist_ok=True)
    setup = describe_setup(given)
    results: dict[str, Any] = {"setup": setup, "parts": {}}
    stored = given.output / "results.json"
    if stored.exists() and not given.fresh:
        found = json.loads(stored.read_text(encoding="utf-8"))
        if found["setup"] == setup:
            results = found
    run_parts(given, results)
    print(f"results: {given.output / 'results.md'}")
    if any(results["parts"][name]["status"].startswith("failed") for name in given.parts):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
