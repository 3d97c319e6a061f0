"""The small set of benchmarks: ratios to peers and to the plain way, against benchmarks/expected.csv.

    python benchmarks/bench.py                       (make bench; under five minutes on two idle cores)
    python benchmarks/bench.py --write --repeat 3    measures anew what is expected on this machine

Ratios of medians, larger is better, of one thread by the processor's clock, which other work on the machine
disturbs least. A ratio is refused that lies further from the expected one than its tolerance, on either side:
what became faster is to be written down, too. A tolerance is twice the largest distance of a repetition from
the median of all when they were written, and 10 % at least. The exit status is 1 if one is refused.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import ceilings
import turns

HERE = Path(__file__).resolve().parent
BOUNDS = ["--threads", "1", "--clock", "processor", "--rounds", "4", "--minutes", "1.5"]
WAYS = ["eager", "prepared", "bf16", "smp", "smp_bf16"]
SETS = (
    ["train_step.py", "--variant", "50", "--batch", "2", "--crop", "128", *BOUNDS],
    ["inference.py", "--variant", "50", "--size", "256x341", "--sides", *WAYS, *BOUNDS],
    ["loader.py", "--cases", "1", "--rounds", "3"],
)
LEAST = 0.1  # of a tolerance
COLUMNS = ("ratio", "expected", "tolerance", "runs", "machine")


def ratios(parts: list[dict[str, Any]]) -> dict[str, float]:
    """Named ratios of what the sets wrote; a side that failed has none."""
    found: dict[str, float] = {}

    def add(name: str, above: float | None, below: float | None) -> None:
        if above and below:
            found[name] = above / below

    for part in parts:
        rows = part.get("rows", {})
        seconds = {name: row["seconds"] for name, row in rows.items()}
        if part["what"] == "step":
            peers = [row for name, row in rows.items() if name.startswith("smp")]
            best, least = (min((peer[what] for peer in peers), default=None) for what in ("seconds", "peak"))
            mode = part["mode"]
            add(f"training step, {mode}: segkit to smp", best, seconds.get("segkit"))
            add(f"training memory, {mode}: segkit to smp", least, rows.get("segkit", {}).get("peak"))
        elif part["what"] == "images":
            add("inference, float32: prepared to eager", seconds.get("eager"), seconds.get("prepared"))
            add("inference, bf16 to float32", seconds.get("prepared"), seconds.get("bf16"))
            add("inference, float32: segkit to smp", seconds.get("smp"), seconds.get("prepared"))
            add("inference, bf16: segkit to smp", seconds.get("smp_bf16"), seconds.get("bf16"))
        elif part["what"] == "loader":
            for ours, peer in part["compared"]:
                add(f"loader, decoded: {ours} to {peer}", part["rates"].get(ours), part["rates"].get(peer))
    return found


def measured() -> dict[str, float]:
    """The ratios of one run of all sets."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.jsonl"
        for script, *words in SETS:
            command = [sys.executable, str(HERE / script), *words, "--results", str(results)]
            if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
                raise SystemExit(f"{script} failed; what it said is above")
        return ratios([json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()])


def compared(found: dict[str, float], expected: list[dict[str, str]]) -> tuple[str, list[str]]:
    """A table, and what is refused: the ratios that moved, those that are missing, and those that are new."""
    known = {row["ratio"]: row for row in expected}
    lines = ["| ratio | expected | tolerance | found | |", "|---|---|---|---|---|"]
    refused = []
    for name in dict.fromkeys([*known, *found]):
        if name not in known or name not in found:
            verdict = "not in the file" if name in found else "not measured"
            lines.append(f"| {name} | | | {found.get(name, 0):.2f} | {verdict} |")
            refused.append(f"{name}: {verdict}")
            continue
        there, tolerance = float(known[name]["expected"]), float(known[name]["tolerance"])
        off = found[name] / there - 1
        verdict = "" if abs(off) <= tolerance else f"{'slower' if off < 0 else 'faster'} by {abs(off):.0%}"
        lines.append(f"| {name} | {there:.2f} | {tolerance:.0%} | {found[name]:.2f} | {verdict} |")
        if verdict:
            refused.append(f"{name}: {found[name]:.2f} in place of {there:.2f}, tolerance {tolerance:.0%}")
    return "\n".join(lines), refused


def rows_of(repeated: list[dict[str, float]], machine: str) -> list[dict[str, str]]:
    """What is written down: medians over repetitions, and how far apart they were."""
    rows = []
    for name in repeated[0]:
        values = [found[name] for found in repeated if name in found]
        middle = statistics.median(values)
        tolerance = max(LEAST, 2 * max(abs(value / middle - 1) for value in values))
        numbers = (name, f"{middle:.3f}", f"{tolerance:.3f}", str(len(values)), machine)
        rows.append(dict(zip(COLUMNS, numbers, strict=True)))
    return rows


def main() -> None:
    """Compare, or write down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--expected", type=Path, default=HERE / "expected.csv")
    parser.add_argument("--write", action="store_true", help="write what is measured to --expected")
    parser.add_argument(
        "--repeat", type=int, default=3, help="of --write: runs whose spread is the tolerance"
    )
    given = parser.parse_args()
    machine = ceilings.machine(1)
    if given.write:
        if given.repeat < 2:
            parser.error(f"--repeat={given.repeat}: two runs at least tell how far apart runs are")
        rows = rows_of([measured() for _ in range(given.repeat)], machine)
        with given.expected.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        turns.log_message(f"{given.expected} has {len(rows)} ratios of {given.repeat} runs each")
        return
    if not given.expected.is_file():
        parser.error(f"--expected={given.expected}: there is no such file; make one with --write")
    expected = list(csv.DictReader(given.expected.read_text(encoding="utf-8").splitlines()))
    table, refused = compared(measured(), expected)
    print(f"{machine}; what is expected was measured on {expected[0]['machine']}\n\n{table}")
    if refused:
        raise SystemExit(
            "\n".join(["", *refused, "look for the cause, or measure what is expected here with --write"])
        )


if __name__ == "__main__":
    main()
