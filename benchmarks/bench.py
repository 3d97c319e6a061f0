"""Compare a small set of speed ratios with benchmarks/expected.csv.

    python benchmarks/bench.py                       (make bench; under five minutes on two unused cores)
    python benchmarks/bench.py --write --repeat 3    writes the ratios of this machine

Ratios are of median CPU time of one thread; larger is better. They depend on the processor, so the file has
ratios for each set of instruction sets, and those of this processor are compared. The exit status is 1 if a
ratio is off by more than its tolerance in either direction. A tolerance is twice the largest distance of a
repetition from the median when the file was written, and at least 10 %.
"""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

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
MIN_TOLERANCE = 0.1
COLUMNS = ("ratio", "expected", "tolerance", "runs", "machine")


def compute_ratios(parts: list[dict[str, Any]]) -> dict[str, float]:
    """Return the ratios of the results of all sets; a side that failed has none."""
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


def measure_ratios() -> dict[str, float]:
    """Run all sets once and return their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.jsonl"
        for script, *words in SETS:
            command = [sys.executable, str(HERE / script), *words, "--results", str(results)]
            if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
                raise SystemExit(f"{script} failed; see its output above")
        return compute_ratios([json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()])


def compare(measured: dict[str, float], expected: list[dict[str, str]]) -> tuple[str, list[str]]:
    """Return a table, and a line for each ratio that moved, is missing or is new."""
    known = {row["ratio"]: row for row in expected}
    lines = ["| ratio | expected | tolerance | measured | |", "|---|---|---|---|---|"]
    failures = []
    for name in dict.fromkeys([*known, *measured]):
        if name not in known or name not in measured:
            verdict = "not in the file" if name in measured else "not measured"
            lines.append(f"| {name} | | | {measured.get(name, 0):.2f} | {verdict} |")
            failures.append(f"{name}: {verdict}")
            continue
        reference, tolerance = float(known[name]["expected"]), float(known[name]["tolerance"])
        change, verdict = measured[name] / reference - 1, ""
        if abs(change) > tolerance:
            verdict = f"{'slower' if change < 0 else 'faster'} by {abs(change):.0%}"
            failures.append(
                f"{name}: {measured[name]:.2f} instead of {reference:.2f}, tolerance {tolerance:.0%}"
            )
        lines.append(f"| {name} | {reference:.2f} | {tolerance:.0%} | {measured[name]:.2f} | {verdict} |")
    return "\n".join(lines), failures


def read_expected(file: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the rows of processors like this one, and those of others."""
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    instructions = f"({', '.join(ceilings.cpu_flags())})"  # in the description of a machine
    same = [row for row in rows if instructions in row["machine"]]
    return same, [row for row in rows if row not in same]


def expected_rows(repeated: list[dict[str, float]], machine: str) -> list[dict[str, str]]:
    """Return the rows of this processor: medians over repetitions, and tolerances."""
    rows = []
    for name in repeated[0]:
        values = [run[name] for run in repeated if name in run]
        middle = statistics.median(values)
        tolerance = max(MIN_TOLERANCE, 2 * max(abs(value / middle - 1) for value in values))
        numbers = (name, f"{middle:.3f}", f"{tolerance:.3f}", str(len(values)), machine)
        rows.append(dict(zip(COLUMNS, numbers, strict=True)))
    return rows


def main() -> None:
    """Compare or write the ratios."""
    parser = turns.make_parser(__doc__)
    parser.add_argument("--expected", type=Path, default=HERE / "expected.csv")
    parser.add_argument("--write", action="store_true", help="write the ratios to --expected")
    parser.add_argument("--repeat", type=int, default=3, help="of --write: runs that define the tolerance")
    given = parser.parse_args()
    machine = ceilings.describe_machine(1)
    same, others = read_expected(given.expected) if given.expected.is_file() else ([], [])
    if given.write:
        if given.repeat < 2:
            parser.error(f"--repeat={given.repeat}: must be at least 2")
        rows = expected_rows([measure_ratios() for _ in range(given.repeat)], machine)
        with given.expected.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows([*others, *rows])
        turns.log_message(f"{given.expected} has {len(rows)} ratios of {given.repeat} runs each")
        return
    if not same:
        parser.error(
            f"--expected={given.expected}: no ratios of a processor like this one. Add them with --write"
        )
    table, failures = compare(measure_ratios(), same)
    print(f"{machine}; expected ratios are from {same[0]['machine']}\n\n{table}")
    if failures:
        raise SystemExit(
            "\n".join(["", *failures, "Find the cause, or write the ratios of this machine with --write"])
        )


if __name__ == "__main__":
    main()
