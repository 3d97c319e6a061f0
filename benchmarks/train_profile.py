"""Where the time of a training step goes, by operation, and the least that the arithmetic takes.

    python benchmarks/train_profile.py [--variant 50] [--batch 2] [--crop 256] [--mode float32] [--threads 2]

The floor is the FLOPs of the convolutions, forward and backward, at the rate that a large matrix product has
in the same run; padding that meets no map is counted in it, so a step may come below where oneDNN skips it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import ceilings
import train_sides

from segkit.runtime import environment

KINDS = {  # what an operation is for, by the beginning of its name
    "convolution, backward": ("aten::convolution_backward", "aten::_slow_conv2d_backward", "aten::mm"),
    "convolution, forward": ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward", "aten::thnn_conv2d"),
    "normalization, backward": ("aten::native_batch_norm_backward",),
    "normalization, forward and again": ("aten::native_batch_norm",),
    "softmax and loss": ("aten::_log_softmax", "aten::nll_loss", "aten::addmm"),
    "copies and zeros": ("aten::copy_", "aten::fill_", "aten::cat", "aten::clone"),
    "optimizer": ("aten::_foreach", "aten::_fused"),
}


def kind_of(name: str) -> str:
    """The kind whose name begins an operation's; the rest is element by element."""
    for kind, names in KINDS.items():
        if name.startswith(names):
            return kind
    return "additions, rectifiers and other passes"


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    train_sides.options(parser)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mode", default="float32", choices=train_sides.SIDES["segkit"])
    given = parser.parse_args()
    environment.set_thread_env(training=True)
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.set_num_threads(given.threads)
    step, batch = train_sides.segkit_step(given, given.mode), train_sides.noise(given)
    for _ in range(2):
        step(*batch)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step(*batch)
    sums: dict[str, float] = {}
    for row in found.key_averages():
        kind = kind_of(row.key)
        sums[kind] = sums.get(kind, 0.0) + row.self_cpu_time_total / 1e6
    whole = sum(sums.values())
    top = ceilings.measured(given.threads)["all"]["bf16" if given.mode in train_sides.HALF else "float32"]
    gflop = 3 * ceilings.gigaflops(given.variant, (given.crop, given.crop), batch=given.batch)
    print(f"one step: {whole:.2f} s; floor {gflop / top:.2f} s at {top:.0f} GFLOP/s")
    print("| operations | seconds | share |\n|---|---|---|")
    for kind, seconds in sorted(sums.items(), key=lambda item: -item[1]):
        print(f"| {kind} | {seconds:.2f} | {seconds / whole:.0%} |")


if __name__ == "__main__":
    main()
