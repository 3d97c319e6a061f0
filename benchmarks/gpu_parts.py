"""The parts of ``make gpu``. Each runs in a separate process, which ``benchmarks/gpu.py`` starts.

    python benchmarks/gpu_parts.py NAME --output FOLDER [--device cpu] [--quick]

A part prints its figures as lines of JSON, and everything else to stderr. Ratios compare with smp in its
faster layout, eager with eager and compiled with compiled, or with the loop of PyTorch-Encoding (``plain``).
``share`` is the share of the rate of large bf16 matrix products in the same part.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import turns

START = time.perf_counter()
ANSWERS = sys.stdout  # of the figures; ``main`` leaves it to them alone
CAMVID = ["experiment=camvid_gpu", "data.root=data/camvid", "runtime.compile=false", "evaluation.every=300"]
CAMVID += ["schedule.iterations=300", "schedule.lr_schedule.warmup_iterations=50"]
RESULT = re.compile(r"(PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b(?: \((.*?)\))?")


def emit(figure: str, value: Any, unit: str = "", **more: Any) -> None:
    """Pass a figure to the script; ``more`` has ratio and peer, share of the ceiling, or skipped."""
    print(json.dumps({"figure": figure, "value": value, "unit": unit, **more}), file=ANSWERS, flush=True)


def measure_ceiling(given: argparse.Namespace) -> dict[str, float]:
    """Return GFLOP/s of large matrix products by number format."""
    import ceilings

    if given.quick:
        ceilings.SIDE["cpu"] = 256
    return ceilings.measure_products(seconds=0.05 if given.quick else 1.0, device=given.device)


def run_ceiling(given: argparse.Namespace) -> None:
    """Describe the machine and measure its ceilings."""
    import torch

    if given.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        emit("device", f"{torch.cuda.device_count()} x {properties.name}")
        emit("device memory", round(properties.total_memory / 2**30, 1), "GiB")
        emit("CUDA", f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    else:
        emit("device", platform.processor() or platform.machine())
    emit("CPU cores", os.cpu_count())
    for kind, rate in measure_ceiling(given).items():
        emit(f"matrix products, {kind}", round(rate / 1000, 3), "TFLOP/s")


def run_tests(given: argparse.Namespace) -> None:
    """Run the tests marked gpu; on a CPU a few of the same."""
    chosen = ["-m", "gpu"] if given.device == "cuda" else ["-k", "cpu and (fp16 or channels_last)"]
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *chosen, "tests/test_gpu.py"]
    # NVML answers whether there is a GPU without initializing CUDA, which a forked process could not use
    settings = {**os.environ, "COLUMNS": "400", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    how: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "env": settings, "cwd": turns.ROOT}
    failed, passed = [], 0
    with subprocess.Popen(command, **how) as tests:
        assert tests.stdout is not None
        for line in tests.stdout:
            print(line, end="", file=sys.stderr, flush=True)
            name, found = line.partition(" ")[0].partition("::")[2], RESULT.search(line)
            if not name or found is None:
                continue
            if found[1] == "PASSED":
                passed += 1
            elif found[1] in ("FAILED", "ERROR"):
                failed.append(name)
            emit(name, found[1].lower(), found[2] or "")
    if failed or tests.returncode or not passed:
        raise SystemExit(f"pytest ended with {tests.returncode}; failed: {', '.join(failed) or 'none'}")


def run_step(given: argparse.Namespace, variant: str) -> None:
    """Measure training steps of segkit and smp in bf16, eager and compiled."""
    import ceilings
    import train_sides

    network = argparse.Namespace(variant=variant, batch=16, crop=480, classes=150, seed=0)
    network.device, network.clock, network.threads = given.device, "wall", min(8, os.cpu_count() or 1)
    if given.quick:
        network.variant, network.batch, network.crop, network.threads = "14", 2, 32, 1
        os.environ["TORCHDYNAMO_DISABLE"] = "1"  # compiling takes minutes
    sides = ["segkit", "smp", "smp_channels_last"]
    if importlib.util.find_spec("segmentation_models_pytorch") is None:
        emit("smp", "skipped: segmentation_models_pytorch is not installed", skipped=True)
        sides = ["segkit"]
    ceiling = measure_ceiling(given)["bf16"]
    build = functools.partial(train_sides.build_network, network)
    gflop = 3 * ceilings.count_gigaflops(build, (network.crop, network.crop), batch=network.batch)
    emit("arithmetic of a step", round(gflop / 1000, 3), "TFLOP")
    missing, fastest = [], {}
    groups = {
        "bf16": [[side] for side in sides],  # one after the other, for the memory
        "bf16_compiled": [[side for side in sides if side != "smp"]],  # together
    }
    for mode in groups:
        seconds: dict[str, float] = {}
        for group in groups[mode]:
            seconds |= measure_sides(group, mode, network, steps=1 if given.quick else 10)
            missing += [f"{side}, {mode}" for side in group if side not in seconds]
        for side, taken in seconds.items():
            more: dict[str, Any] = {"share": gflop / taken / ceiling}
            peers = {other: seconds[other] for other in seconds if other != "segkit"}
            if side == "segkit" and peers:
                best = min(peers, key=lambda peer: peers[peer])
                more |= {"ratio": peers[best] / taken, "peer": best}
                fastest |= {f"segkit, {mode}": taken, f"smp, {mode}": peers[best]}
            emit(f"{side}, {mode}: images/s", round(network.batch / taken, 2), **more)
    if {"segkit, bf16_compiled", "smp, bf16"} <= fastest.keys():
        ratio = fastest["smp, bf16"] / fastest["segkit, bf16_compiled"]
        emit("segkit compiled to smp eager", round(ratio, 2), "x")
    if missing:
        raise SystemExit(f"no result of {'; '.join(missing)}")


def measure_sides(
    sides: list[str], mode: str, network: argparse.Namespace, *, steps: int
) -> dict[str, float]:
    """Return the seconds of a training step of each side, which take turns, and emit its figures."""
    names = ("variant", "batch", "crop", "classes", "seed", "device")
    script = str(turns.ROOT / "benchmarks/train_step.py")
    commands = {side: turns.side_command(script, network, *names, worker=(side, mode)) for side in sides}
    seconds = {}
    with turns.start_sides(commands, threads=network.threads) as started:
        ready = warm_up(started, mode)
        answers = turns.run_rounds(ready, count=3, minutes=0.5, warm=(str(steps),), line=str(steps))
        for side, row in turns.summarize(answers).items():
            seconds[side] = row["seconds"] / steps
            emit(f"{side}, {mode}: step", round(1000 * seconds[side], 2), "ms")
            emit(f"{side}, {mode}: peak memory", round(row["peak"]), "MiB")
    return seconds


def warm_up(ready: dict[str, Any], mode: str) -> dict[str, Any]:
    """Take the first step of all sides at the same time; return the sides that could."""
    for side in ready.values():
        side.send()
    able = {}
    for name, side in ready.items():
        answer = side.read_answer()
        if answer is None:
            print(f"{name}: {side.error_text()}", file=sys.stderr, flush=True)
            continue
        emit(f"{name}, {mode}: first step", round(answer["seconds"], 1), "s")
        able[name] = side
    return able


def run_evaluation(given: argparse.Namespace) -> None:
    """Measure scoring of one image at six scales with flips, and its agreement with the published loop."""
    import evaluation
    import inference_sides
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from segkit.data.datasets import shapes

    scales, size, rounds = evaluation.ADE20K["scales"], [512, 683], 3
    if given.quick:
        scales, size, rounds = (0.5, 1.0), [60, 80], 1
        evaluation.ADE20K.update(base_size=64, window=48)
        torch.set_num_threads(1)
    ceiling = measure_ceiling(given)["bf16"]
    model = inference_sides.build_network("14" if given.quick else "101").to(given.device)
    ways = evaluation.build_ways(model, shapes.build("val", size=size).read(0).image, scales)
    ids, median = {}, {}
    for name, predict in ways.items():
        with FlopCounterMode(display=False) as counter:
            ids[name] = predict()
        gflop = counter.get_total_flops() / 1e9
        median[name] = statistics.median(turns.time_rounds({name: predict}, rounds, warm=0)[name])
        more: dict[str, Any] = {"share": gflop / median[name] / ceiling} if gflop else {}
        if name != "plain":
            more |= {"ratio": median["plain"] / median[name], "peer": "plain"}
        emit(f"{name}: one image", round(1000 * median[name], 1), "ms", **more)
    for name in ("float32", "bf16"):
        same = (ids[name] == ids["plain"]).double().mean().item()
        emit(f"{name}: pixels that agree with the loop", round(100 * same, 3), "%")


def run_training(given: argparse.Namespace) -> None:
    """Train on CamVid if it is in data/camvid, else on generated scenes, and report speed and score."""
    import startup

    settings = ["experiment=demo", "runtime.precision=auto"]
    if (turns.ROOT / "data/camvid").is_dir():
        settings = CAMVID
    settings = [*settings, f"loader.workers={min(8, os.cpu_count() or 1)}"]
    if given.quick:
        settings = [*startup.TINY, "schedule.iterations=12", "evaluation.every=12"]
    folder = given.output.resolve() / "training"
    if folder.exists():
        shutil.rmtree(folder)
    sys.argv = ["train_seg.py", *settings, f"device={given.device}", "writers.jsonl=true", "resume=false"]
    sys.argv += [f"run_dir={folder.parent}", f"run_name={folder.name}"]
    train_seg = importlib.import_module("train_seg")
    training = importlib.import_module("segkit.training")
    take_step = training.train_step

    def time_first_step(*values: Any) -> Any:
        step = take_step(*values)
        float(step.gradient_norm)  # waits for it
        emit("first step after the start of the process", round(time.perf_counter() - START, 1), "s")
        training.train_step = take_step
        return step

    training.train_step = time_first_step
    try:
        train_seg.main()
    except SystemExit as end:
        if end.code:
            raise
    lines = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
    speeds = [line["wall/images_per_second"] for line in lines if "wall/images_per_second" in line]
    emit(f"{settings[0]}: images/s, median", round(statistics.median(speeds), 1))
    scores = json.loads((folder / "result.json").read_text())["scores"]
    emit(f"{settings[0]}: mIoU", round(100 * scores["mIoU"], 2), "%")


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "ceiling": run_ceiling,
    "tests": run_tests,
    "step_50": functools.partial(run_step, variant="50"),
    "step_101": functools.partial(run_step, variant="101"),
    "evaluation": run_evaluation,
    "training": run_training,
}


def end_with(parent: int) -> None:
    """End this process group when another process has ended, even by SIGKILL."""

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Run one part."""
    global ANSWERS
    parser = turns.make_parser(__doc__)
    parser.add_argument("part", choices=[*PARTS])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--parent", type=int, help="end with this process")
    given = parser.parse_args()
    if given.parent:
        end_with(given.parent)
    ANSWERS = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    PARTS[given.part](given)


if __name__ == "__main__":
    main()
