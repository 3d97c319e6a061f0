"""Compare runs: ``python -m segkit.monitor.compare runs/* [--csv FILE] [--json FILE] [--png FILE]``.

Says which settings differ and what came of it. All of it is read from the runs' TensorBoard events. Where
runs differ in their seed alone, a second table has them as one row: mean, spread, and what can be told apart.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segkit.drawing import line_charts, overlays
from segkit.monitor import repeated
from segkit.system import files

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Run:
    """What the events of one run say."""

    name: str
    settings: dict[str, float | str]
    curves: dict[str, Points]
    folder: Path = Path()

    def scores(self) -> dict[str, float | None]:
        """Best validation and length of the run; None where it has not come that far.

        The time is that of training alone, however often the run was interrupted.
        """
        validations = self.curves.get("val/mIoU", [])
        best_at, best = max(validations, key=lambda point: point[1], default=(None, None))
        accuracy = dict(self.curves.get("val/pixAcc", []))
        losses, seconds = self.curves.get("train/loss", []), self.curves.get("wall/step_seconds", [])
        iterations = max((step for step, _ in losses + validations), default=0)
        mean = sum(second for _, second in seconds) / len(seconds) if seconds else None
        return {
            "best mIoU": best,
            "pixAcc there": None if best_at is None else accuracy.get(best_at),
            "best iteration": best_at,
            "last mIoU": validations[-1][1] if validations else None,
            "last loss": losses[-1][1] if losses else None,
            "iterations": iterations,
            "hours": None if mean is None else mean * iterations / 3600,
        }


def read(folder: Path) -> Run:
    """A run from its folder.

    Raises:
        ValueError: no events are in it.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    if not any(folder.glob("events.out.tfevents.*")):
        raise ValueError(f"{folder} holds no TensorBoard events; give folders of runs, such as runs/demo")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1, "tensors": 1}).Reload()
    settings: dict[str, float | str] = {}
    if metadata.SESSION_START_INFO_TAG in events.summary_metadata:
        content = events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
        for key, value in metadata.parse_session_start_info_plugin_data(content).hparams.items():
            settings[key] = getattr(value, value.WhichOneof("kind"))
    tags = events.Tags()["scalars"]
    curves = {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}
    return Run(folder.resolve().name, settings, curves, folder)


def differing(runs: Sequence[Run]) -> list[str]:
    """Settings that are not the same in all runs; the name of a run is not one of them."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [k for k in keys if k != "run_name" and len({str(run.settings.get(k)) for run in runs}) > 1]


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row a run, best first and by name where equal: name, scores as fractions, settings that differ."""
    order = sorted(runs, key=lambda run: (-(run.scores()["best mIoU"] or 0), run.name))
    keys = differing(runs)
    return [
        {"run": run.name, **run.scores(), **{key: run.settings.get(key) for key in keys}} for run in order
    ]


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The rows for a screen, a run each, in percent."""
    texts = [{key: _shown(key, value) for key, value in line.items()} for line in lines]
    return _aligned([list(texts[0]), *(list(text.values()) for text in texts)])


def _shown(key: str, value: object) -> str:
    if value is None:
        return "-"
    if key in ("best mIoU", "pixAcc there", "last mIoU"):
        return f"{100 * float(str(value)):.2f}"
    return (
        f"{value:.4g}"
        if isinstance(value, float) and value % 1
        else f"{value:g}"
        if _number(value)
        else str(value)
    )


def _number(value: object) -> bool:
    return isinstance(value, (int, float))


def _aligned(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in cells
    ]
    return "\n".join(lines) + "\n"


def seeds(runs: Sequence[Run]) -> str:
    """The table of rows of several seeds; nothing where no settings were run with two."""
    scored = [run for run in runs if run.curves.get("val/mIoU")]
    groups = repeated.grouped([run.settings for run in scored])
    if all(len(group) < 2 for group in groups):
        return ""
    found = []
    for group in groups:
        some = [scored[number] for number in group]
        seconds = [second for run in some for _, second in run.curves.get("wall/step_seconds", [])]
        found.append(
            repeated.Row(
                repeated.without_seed(some[0].name),
                [run.curves["val/mIoU"][-1][1] for run in some],
                *repeated.cost(some[0].folder),
                statistics.median(seconds) if seconds else None,
            )
        )
    note = (
        "mIoU of the last validation in %, mean and standard deviation over the seeds; MACs of one crop; "
        "p of Welch's t-test times the rows compared"
    )
    return f"\n{_aligned(repeated.cells(found))}{note}\n"


def smoothed(curve: Points, *, weight: float = 0.9) -> Points:
    """A running mean that starts at the first value."""
    smooth, mean = [], None
    for step, value in curve:
        mean = value if mean is None else weight * mean + (1 - weight) * value
        smooth.append((step, mean))
    return smooth


def draw(runs: Sequence[Run], file: Path) -> None:
    """The curves of validation and training as an image."""
    panels = {
        "val/mIoU in %, by iteration": {
            run.name: [(step, 100 * value) for step, value in run.curves.get("val/mIoU", [])] for run in runs
        },
        "train/loss, smoothed, by iteration": {
            run.name: smoothed(run.curves.get("train/loss", [])) for run in runs
        },
    }
    overlays.save(file, line_charts.charts(panels))


def main(arguments: Sequence[str] | None = None) -> str:
    """Read the runs, write what was asked for, and return the table."""
    parser = argparse.ArgumentParser(
        prog="python -m segkit.monitor.compare", description="compare training runs"
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, such as runs/*")
    for kind in ("csv", "json", "png"):
        parser.add_argument(f"--{kind}", type=Path, metavar="FILE")
    chosen = parser.parse_args(arguments)
    found, skipped = [], []
    for folder in chosen.runs:
        if not folder.is_dir() and folder.exists():  # a sweep's own multirun.yaml, which runs/* names too
            continue
        try:
            found.append(read(folder))
        except ValueError as error:
            skipped.append(str(error))
    if not found:
        parser.error("\n".join(skipped) or "no folder of a run is among them; give such as runs/demo")
    lines = rows(found)
    if chosen.csv:
        sheet = io.StringIO()
        writer = csv.DictWriter(sheet, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
        _write(chosen.csv, sheet.getvalue())
    if chosen.json:
        whole = [{"run": r.name, "scores": r.scores(), "settings": r.settings} for r in found]
        _write(chosen.json, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    if chosen.png:
        draw(found, chosen.png)
    return table(lines) + "".join(f"left out: {reason}\n" for reason in skipped) + seeds(found)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(file) as out:
        out.write(text.encode())


if __name__ == "__main__":
    sys.stdout.write(main())
