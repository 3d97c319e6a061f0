"""Images per second on single images: segkit in all its ways to run, and other toolkits.

    python benchmarks/inference.py --size 512x683 --variant 50 --results inference.jsonl
    python benchmarks/inference.py --size 512x683 --variant 50 --flips --results inference.jsonl
    python benchmarks/inference.py pipeline --size 512x683 --variant 50
    python benchmarks/inference.py large --size 8000x10000 --variant 101

Each side runs in its own process, and they take turns; results are medians. Peak memory is that of the side's
process while it predicts, and its growth over the loaded network. ``ceiling`` is the share of the rate of
large matrix products of the side's precision in the same run. Exported files are stored in ``--files``. All
sides stay in memory, about 1 GiB each and more for large images; with ``--alone`` one at a time. ``large`` is
one image in tiles of 768, ``pipeline`` a folder and a video from end to end.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import ceilings
import inference_sides
import inference_whole
import turns

LONG = ("plain_loop", "eager", "bf16", "openvino_bf16", "openvino_int8", "smp_bf16")  # of --flips


def work(given: argparse.Namespace) -> None:
    """Serve as a side: one prediction for each line of input."""
    import torch

    torch.set_num_threads(given.threads)
    if given.worker[0] == "write":
        inference_sides.write_file(given.worker[1], given.variant, given.files)
        return

    def build() -> Any:
        image = inference_sides.make_image(inference_sides.parse_size(given.size))
        predict = inference_sides.make_predictor(given.worker[0], given)

        def once(line: str) -> None:
            predict(image, line == "flips")

        return once

    turns.serve(build, clock=given.clock)


def measure(given: argparse.Namespace) -> None:
    """Measure and print one table."""
    names = given.sides or (LONG if given.flips else inference_sides.OURS + inference_sides.PEERS)
    settings = ("variant", "size", "files")
    written: set[Path] = set()
    for name in names:
        if name not in inference_sides.FILES:
            continue
        path = inference_sides.exported_file(name, given.variant, given.files)[1]
        if path not in written and not path.exists():
            turns.log_message(f"  exporting {path.name} ...")
            command = turns.side_command(__file__, given, *settings, worker=("write", name))
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
            if done.returncode:
                turns.log_message(f"  failed: {done.stderr.strip()[-200:]}")
            else:
                turns.log_message("  ... written")
            written.add(path)
    ceiling = ceilings.measure(given.threads, given.clock)
    commands = {name: turns.side_command(__file__, given, *settings, worker=(name,)) for name in names}
    line = "flips" if given.flips else "single"
    how: dict[str, Any] = {"count": given.rounds, "minutes": given.minutes, "warm": ["single"], "line": line}
    answers = turns.run_sides(commands, threads=given.threads, alone=given.alone, **how)
    part: dict[str, Any] = {
        name: getattr(given, name) for name in ("size", "variant", "flips", "threads", "clock")
    }
    part |= {"what": "images", "machine": ceilings.describe_machine(given.threads), "ceilings": ceiling}
    part |= {"gflop": count_gigaflops(given), "rows": turns.summarize(answers)}
    turns.store_results(given, part)
    print(format_table(part))


def count_gigaflops(given: argparse.Namespace) -> float:
    """Return the GFLOP of all views of the image."""
    height, width = inference_sides.parse_size(given.size)
    build = functools.partial(inference_sides.build_network, given.variant)
    scales = inference_sides.SCALES if given.flips else (1.0,)
    sizes = [(int(height * scale), int(width * scale)) for scale in scales]
    return sum(ceilings.count_gigaflops(build, size) for size in sizes) * (2 if given.flips else 1)


def format_table(part: dict[str, Any]) -> str:
    """Return the table in Markdown, the slowest side first."""
    how = "six scales, flips" if part["flips"] else "single-scale"
    lines = [
        f"\nDeepLabV3-ResNeSt-{part['variant']}, {part['size']}, {how}; {part['gflop']:.0f} GFLOP per image, "
    ]
    lines[0] += f"{part['clock']} time; {part['machine']}"
    lines += [ceilings.format_ceilings(part["ceilings"]), ""]
    rows, reference = part["rows"], "eager" if "eager" in part["rows"] else next(iter(part["rows"]), "")
    heads = ["side", "images/s", "s (fastest to slowest)", f"of {reference}", "of the ceiling"]
    heads += ["peak MiB, over the network"]
    lines.append(f"| {' | '.join(heads)} |")
    lines.append("|---|---|---|---|---|---|")
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["seconds"]):
        kind = next((kind for kind in ("int8", "bf16") if kind in name), "float32")
        top = part["ceilings"]["all"].get(kind)
        other = name.startswith("torchvision")  # another network
        share = f"{part['gflop'] / row['seconds'] / top:.0%}" if top and not other else ""
        cells = [name, f"{1 / row['seconds']:.3f}"]
        cells += [f"{row['seconds']:.2f} ({row['fastest']:.2f} to {row['slowest']:.2f})"]
        cells += [f"{rows[reference]['seconds'] / row['seconds']:.2f}x", share]
        cells += [f"{row['peak']:.0f}, {row['peak'] - row['loaded']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


WHAT = {
    "measure": measure,
    "large": inference_whole.measure_large,
    "pipeline": inference_whole.measure_pipeline,
}


def main() -> None:
    """Measure and print a table."""
    parser = turns.make_turns_parser(__doc__)
    parser.add_argument("what", nargs="?", default="measure", choices=[*WHAT])
    parser.add_argument("--size", default="512x683", help="height x width")
    parser.add_argument("--variant", default="50", choices=["14", "26", "50", "101"])
    sides = inference_sides.OURS + inference_sides.PEERS
    parser.add_argument("--sides", nargs="+", choices=sides, help=f"default: all; with --flips {LONG}")
    parser.add_argument("--alone", action="store_true", help="one process at a time, if memory is short")
    parser.add_argument("--flips", action="store_true", help="six scales with flips")
    parser.add_argument("--images", type=int, default=8, help="of `pipeline`")
    parser.add_argument("--files", type=Path, default=Path("exported"), help="folder for exported files")
    given = parser.parse_args()
    if given.worker:
        work(given)
    else:
        WHAT[given.what](given)


if __name__ == "__main__":
    main()
