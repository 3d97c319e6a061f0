"""Seconds, images/s and peak memory of a training step: segkit, segmentation_models.pytorch, the published.

    python benchmarks/train_step.py [--variant 50] [--batch 2] [--crop 256] [--modes float32 bf16]

All sides train DeepLabV3 on the same ResNeSt (output stride 8, no auxiliary head unless `--auxiliary`, which
smp does not have) on the same batch with SGD, and count the same loss over 150 classes. Each side lives in a
process of its own and takes its steps in turn, so that what else the machine does meets all of them; medians
are given. smp runs in its default and in its channels-last layout, the better counts. `published` is the step
of PyTorch-Encoding written out around the same network: full-size logits in float32, a loss a head.
Peak memory is that of the whole process. The ceiling is what a large matrix product reached in the same run.

Clock: `wall`, or `processor` for the time the processor worked, which a busy machine hardly disturbs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

CLASSES = 150
SIDES = {  # side: modes it has
    "segkit": ("float32", "bf16", "compiled", "checkpoint", "everything_kept", "accumulate"),
    "smp": ("float32", "bf16", "compiled"),
    "smp_channels_last": ("float32", "bf16", "compiled"),
    "published": ("float32",),
}
Step = Callable[[], float]


def batch_of(size: int, crop: int) -> tuple[Any, Any]:
    """Images (B, 3, H, W) and labels (B, H, W), uint8."""
    import torch

    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (size, 3, crop, crop), dtype=torch.uint8, generator=generator)
    cells = torch.randint(0, CLASSES, (size, crop // 16 + 1, crop // 16 + 1), generator=generator)
    label = cells.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :crop, :crop]
    return image, label.to(torch.uint8).contiguous()


def network(given: argparse.Namespace) -> Any:
    """DeepLabV3 on the ResNeSt that is measured, with the seed's weights."""
    import torch

    from segkit.models import segmenter

    torch.manual_seed(given.seed)
    return segmenter.build(
        CLASSES,
        backbone={"name": "resnest", "variant": given.variant, "output_stride": 8},
        head={"name": "deeplabv3"},
        auxiliary={"name": "fcn", "stage": 3} if given.auxiliary else None,
    )


def segkit_step(given: argparse.Namespace, mode: str) -> Step:
    """What `train_seg.py` does with a batch."""
    import torch

    from segkit import components, training
    from segkit.types import Batch

    model = network(given)
    parts = 2 if mode == "accumulate" else 1
    run = training.begin(
        model,
        components.build("losses", {"name": "cross_entropy"}, num_classes=CLASSES),
        samples=1000,
        schedule=training.Schedule(
            batch_size=given.batch,
            lr=0.01,
            iterations=10**6,
            accumulate=parts,
            optimiser={"name": "sgd"},
            policy={"name": "constant"},
        ),
        runtime=training.Runtime(
            precision="bf16" if mode == "bf16" else "float32",
            compile=mode == "compiled",
            checkpoint=("layer3",) if mode == "checkpoint" else (),
            recompute=mode != "everything_kept",
        ),
        device=torch.device("cpu"),
        seed=given.seed,
    )
    image, label = batch_of(given.batch, given.crop)
    each = given.batch // parts
    batches = [
        Batch(image[i : i + each], label[i : i + each], [""] * each) for i in range(0, given.batch, each)
    ]
    return lambda: float(sum(training.train_step(run, batches).losses.values()))


def peer_step(given: argparse.Namespace, mode: str, network: Any, *, channels_last: bool) -> Step:
    """A plain loop around a network that returns full-size logits, or several."""
    import torch
    import torch.nn.functional as F

    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(memory_format=layout).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    image, label = batch_of(given.batch, given.crop)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    runner = torch.compile(network) if mode == "compiled" else network

    def step() -> float:
        x = ((image.float() / 255 - mean[:, None, None]) / std[:, None, None]).contiguous(
            memory_format=layout
        )
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16"):
            found = runner(x)
            heads = found if isinstance(found, tuple) else (found,)
            losses = [F.cross_entropy(logits, label.long(), ignore_index=255) for logits in heads]
            loss = losses[0] + sum(0.2 * other for other in losses[1:])
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def smp_network(given: argparse.Namespace) -> Any:
    """DeepLabV3 of segmentation_models.pytorch on timm's ResNeSt."""
    import segmentation_models_pytorch as smp
    import torch

    torch.manual_seed(given.seed)
    name = f"tu-resnest{given.variant}{'e' if given.variant == '101' else 'd'}"
    return smp.DeepLabV3(name, encoder_weights=None, classes=CLASSES, encoder_output_stride=8)


def published_network(given: argparse.Namespace) -> Any:
    """The parts of PyTorch-Encoding in its order: each head's logits are resized in float32."""
    from torch import nn

    parts = network(given)

    class Published(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = parts

        def forward(self, x: Any) -> tuple[Any, ...]:
            found = self.parts(x)
            return tuple(logits for logits in (found.main, found.aux) if logits is not None)

    return Published()


def work(given: argparse.Namespace) -> None:
    """One side, in its own process: a step for each line that comes in."""
    import torch

    torch.set_num_threads(given.threads)
    side, mode = given.worker
    if side == "segkit":
        step = segkit_step(given, mode)
    else:
        network = published_network(given) if side == "published" else smp_network(given)
        step = peer_step(given, mode, network, channels_last=side.endswith("channels_last"))
    clock = time.perf_counter if given.clock == "wall" else time.process_time
    for _ in sys.stdin:
        start = clock()
        loss = step()
        print(json.dumps({"seconds": clock() - start, "loss": loss, "peak": peak_mib()}), flush=True)


def peak_mib() -> float:
    """The most memory that this process has held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def ceiling(clock: Callable[[], float], threads: int) -> dict[str, float]:
    """GFLOP/s of a matrix product of 2048 x 2048, the best of some."""
    import torch

    torch.set_num_threads(threads)
    found = {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(2048, 2048).to(dtype)
        seconds = []
        for _ in range(4):
            start = clock()
            a @ a
            seconds.append(clock() - start)
        found[name] = 2 * 2048**3 / min(seconds) / 1e9
    return found


def flops(given: argparse.Namespace) -> float:
    """GFLOP of one step: forward, and twice that backward."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from segkit.models import segmenter

    backbone = {"name": "resnest", "variant": given.variant, "output_stride": 8}
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = segmenter.build(CLASSES, backbone=backbone, head={"name": "deeplabv3"})
        model(torch.zeros(given.batch, 3, given.crop, given.crop))
    return 3 * counter.get_total_flops() / 1e9


def measure(
    given: argparse.Namespace, ways: list[tuple[str, str]]
) -> dict[tuple[str, str], dict[str, float]]:
    """Median seconds, peak and last loss of each way; their steps alternate."""
    shown = [
        f"--{name}={getattr(given, name)}"
        for name in ("variant", "batch", "crop", "threads", "clock", "seed")
    ]
    shown += ["--auxiliary"] * given.auxiliary
    processes = {
        way: subprocess.Popen(
            [sys.executable, __file__, *shown, "--worker", *way],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(given.threads)},
        )
        for way in ways
    }
    answers: dict[tuple[str, str], list[dict[str, float]]] = {way: [] for way in ways}
    for number in range(given.warm + given.steps):
        for way, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("step\n")
            process.stdin.flush()
            answers[way].append(json.loads(process.stdout.readline()))
        print(f"step {number + 1} of {given.warm + given.steps}", file=sys.stderr, flush=True)
    for process in processes.values():
        process.communicate()
    return {
        way: {
            "seconds": statistics.median(answer["seconds"] for answer in found[given.warm :]),
            "peak": found[-1]["peak"],
            "loss": found[-1]["loss"],
        }
        for way, found in answers.items()
    }


def options(description: str | None) -> argparse.ArgumentParser:
    """What is asked of any measurement of a step: the network, the batch and the threads."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="50", choices=["14", "26", "50", "101"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--auxiliary", action="store_true")
    return parser


def main() -> None:
    """Print one table."""
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--clock", default="wall", choices=["wall", "processor"])
    parser.add_argument("--modes", nargs="+", default=["float32", "bf16"])
    parser.add_argument(
        "--sides", nargs="+", default=["segkit", "smp", "smp_channels_last"], choices=list(SIDES)
    )
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given)
        return
    ways = [(side, mode) for mode in given.modes for side in given.sides if mode in SIDES[side]]
    clock = time.perf_counter if given.clock == "wall" else time.process_time
    top, work_of_step = ceiling(clock, given.threads), flops(given)
    found = measure(given, ways)
    what = f"DeepLabV3-ResNeSt-{given.variant}, batch {given.batch}, crop {given.crop}"
    reached = f"{top['float32']:.0f} GFLOP/s in float32, {top['bf16']:.0f} in bf16"
    print(f"{what}, {given.threads} threads, {given.clock} time; matrix products reach {reached}")
    print("| side | mode | s a step | images/s | of the ceiling | peak MiB |\n|---|---|---|---|---|---|")
    for (side, mode), row in found.items():
        share = work_of_step / row["seconds"] / top["bf16" if mode == "bf16" else "float32"]
        print(f"| {side} | {mode} | {row['seconds']:.2f} | {given.batch / row['seconds']:.2f} | {share:.0%} |"
              f" {row['peak']:.0f} |")  # fmt: skip
    for mode in given.modes:
        peers = [found[way] for way in ways if way[1] == mode and way[0].startswith("smp")]
        if peers and ("segkit", mode) in found:
            ours = found["segkit", mode]
            best = min(peer["seconds"] for peer in peers)
            least = min(peer["peak"] for peer in peers)
            print(
                f"{mode}: {best / ours['seconds']:.2f}x as fast as smp's best,"
                f" {ours['peak'] / least:.0%} of its memory"
            )


if __name__ == "__main__":
    main()
