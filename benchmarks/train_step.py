"""Seconds, images/s and peak memory of a training step: segkit, segmentation_models.pytorch, the published.

    python benchmarks/train_step.py --variant 50 --batch 2 --crop 256 --results train_step.jsonl
    python benchmarks/train_step.py losses
    python benchmarks/train_step.py --device cuda --modes bf16_compiled --variant 101 --batch 16 --crop 480

All sides train on the same batch, each in a fresh process, and take a step in turn; medians count, and
ratios are against the better layout of smp. Peak memory is that of a side's process; on a GPU, what PyTorch
allocated there. Each mode has a table. ``ceiling`` is the share of what large matrix products reached in the
same run; the arithmetic is counted as forward and twice that backward.

``losses`` takes 50 steps on drawn scenes with three seeds a side, and prints the mean of the last ten losses.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from typing import Any

import ceilings
import train_sides
import turns

NETWORK = ("variant", "batch", "crop", "classes", "seed", "device")
SCENES = 64  # that `losses` draws its batches from
LAST = 10  # losses whose mean counts


def work(given: argparse.Namespace) -> None:
    """Serve as a side: each line is a number of steps, one if it is empty."""
    side, mode = given.worker

    def build() -> Any:
        import torch

        torch.set_num_threads(given.threads)
        batch = train_sides.make_batch(given)
        step = train_sides.make_step(given, side, mode)

        def take(line: str) -> dict[str, Any]:
            losses = [step(*batch) for _ in range(int(line or 1))]
            return {"loss": float(losses[-1])}

        return take

    turns.serve(build, clock=given.clock, device=given.device)


def measure(given: argparse.Namespace) -> None:
    """Measure and print one table per mode."""
    ceiling = ceilings.measure(given.threads, given.clock, given.device)
    build = functools.partial(train_sides.build_network, given)
    gflop = 3 * ceilings.count_gigaflops(build, (given.crop, given.crop), batch=given.batch)
    for mode in given.modes:
        sides = [side for side in given.sides if mode in train_sides.SIDES[side]]
        commands = {
            side: turns.side_command(__file__, given, *NETWORK, worker=(side, mode)) for side in sides
        }
        how: dict[str, Any] = {"count": given.rounds, "minutes": given.minutes / len(given.modes)}
        how["warm"] = ("", "")  # segkit allocates part of its memory in the second step
        answers = turns.run_sides(commands, threads=given.threads, alone=given.alone, **how)
        part: dict[str, Any] = {name: getattr(given, name) for name in (*NETWORK, "threads", "clock")}
        part |= {
            "what": "step",
            "mode": mode,
            "machine": ceilings.describe_machine(given.threads, given.device),
        }
        part |= {"ceilings": ceiling, "gflop": gflop, "rows": turns.summarize(answers)}
        turns.store_results(given, part)
        print(step_table(part), flush=True)


def step_table(part: dict[str, Any]) -> str:
    """Return the table of one mode in Markdown."""
    rows, kind = part["rows"], "bf16" if part["mode"] in train_sides.HALF else "float32"
    network = train_sides.describe_network(part["variant"])
    what = f"{network}, batch {part['batch']}, crop {part['crop']}, {part['mode']}"
    lines = [f"\n{what}; {part['gflop']:.0f} GFLOP per step, {part['clock']} time; {part['machine']}"]
    lines += [ceilings.format_ceilings(part["ceilings"]), ""]
    lines.append("| side | s per step (fastest to slowest) | images/s | of the ceiling | peak MiB | rounds |")
    lines.append("|---|---|---|---|---|---|")
    for side, row in rows.items():
        share = part["gflop"] / row["seconds"] / part["ceilings"]["all"][kind]
        spread = f"{row['fastest']:.2f} to {row['slowest']:.2f}"
        lines.append(
            f"| {side} | {row['seconds']:.2f} ({spread}) | {part['batch'] / row['seconds']:.2f} |"
            f" {share:.0%} | {row['peak']:.0f} | {row['rounds']} |"
        )
    peers = [row for side, row in rows.items() if side.startswith("smp")]
    if peers and "segkit" in rows:
        best, least = (min(peer[what] for peer in peers) for what in ("seconds", "peak"))
        ratio, memory = best / rows["segkit"]["seconds"], rows["segkit"]["peak"] / least
        lines.append(
            f"\nsegkit is {ratio:.2f}x as fast as smp's faster side, with {memory:.0%} of its lowest memory"
        )
    return "\n".join(lines)


def compare_losses(given: argparse.Namespace) -> None:
    """Train each side with several seeds, and print mean and standard deviation of its last losses."""
    import torch

    from segkit.data.datasets import shapes

    torch.set_num_threads(given.threads)
    scenes = shapes.build("train", size=given.crop)
    samples = [scenes.read(index) for index in range(SCENES)]
    images = torch.stack([torch.from_numpy(sample.image).permute(2, 0, 1) for sample in samples])
    labels = torch.stack([torch.from_numpy(sample.label) for sample in samples])
    given.classes = scenes.table.num_classes

    def train(side: str, mode: str, seed: int) -> float:
        given.seed = seed
        step = train_sides.make_step(given, side, mode)
        order = torch.Generator().manual_seed(seed)
        batches = [torch.randperm(SCENES, generator=order)[: given.batch] for _ in range(given.steps)]
        losses = [float(step(images[batch], labels[batch])) for batch in batches]
        turns.log_message(f"  seed {seed}, {side} {mode}: {losses[-1]:.4f}")
        return statistics.mean(losses[-LAST:])

    network = train_sides.describe_network(given.variant)
    print(f"{network}, {given.batch} drawn scenes of {given.crop} pixels, mean of the last {LAST} losses\n")
    print("| side | mean of the seeds | standard deviation |\n|---|---|---|")
    for mode in given.modes:
        for side in (side for side in given.sides if mode in train_sides.SIDES[side]):
            means = [train(side, mode, seed) for seed in range(given.seeds)]
            print(
                f"| {side} {mode} | {statistics.mean(means):.4f} | {statistics.stdev(means):.4f} |",
                flush=True,
            )


WHAT = {"measure": measure, "losses": compare_losses}


def main() -> None:
    """Measure and print tables."""
    parser = turns.make_turns_parser(__doc__)
    parser.add_argument("what", nargs="?", default="measure", choices=[*WHAT])
    train_sides.add_options(parser)
    parser.add_argument("--modes", nargs="+", default=["float32", "bf16"])
    parser.add_argument("--alone", action="store_true", help="one process at a time, if memory is short")
    sides = ["segkit", "smp", "smp_channels_last"]
    parser.add_argument("--sides", nargs="+", choices=[*train_sides.SIDES], default=sides)
    parser.add_argument("--steps", type=int, default=50, help="of `losses`")
    parser.add_argument("--seeds", type=int, default=3, help="of `losses`")
    if sys.argv[1:2] == ["losses"]:
        parser.set_defaults(batch=4, crop=96)
    given = parser.parse_args()
    if given.worker:
        work(given)
        return
    if given.seeds < 2:
        parser.error(f"--seeds={given.seeds}: must be at least 2")
    WHAT[given.what](given)


if __name__ == "__main__":
    main()
