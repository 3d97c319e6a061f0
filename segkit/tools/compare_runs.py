"""Compare runs: ``python -m segkit.tools.compare_runs runs/* [--csv FILE] [--json FILE] [--png FILE]``.

Lists the settings that differ and the scores, read from the TensorBoard events of the runs. Runs that differ
in their seed alone are one row of a second table: mean, standard deviation, cost, and Welch's t-test
against the best row, its p times the number of rows compared (Bonferroni).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from segkit.config.values import parse_path
from segkit.runtime import files
from segkit.visualize import line_charts, overlays

FREE = ("seed", "run_name", "run_dir", "resume")  # settings that may differ within a row of seeds
LEVEL = 0.05  # of significance
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


def read_run(folder: Path) -> Run:
    """Return the run in a folder.

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


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """Return the settings that differ between runs, except the run name."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [k for k in keys if k != "run_name" and len({str(run.settings.get(k)) for run in runs}) > 1]


def build_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row a run, best first and by name where equal: name, scores as fractions, settings that differ."""
    order = sorted(runs, key=lambda run: (-(run.scores()["best mIoU"] or 0), run.name))
    keys = differing_settings(runs)
    return [
        {"run": run.name, **run.scores(), **{key: run.settings.get(key) for key in keys}} for run in order
    ]


def format_table(lines: Sequence[dict[str, Any]]) -> str:
    """Return the rows as an aligned text table, scores in percent."""
    texts = [{key: _format_value(key, value) for key, value in line.items()} for line in lines]
    return _align_columns([list(texts[0]), *(list(text.values()) for text in texts)])


def _format_value(key: str, value: object) -> str:
    if value is None:
        return "-"
    if key in ("best mIoU", "pixAcc there", "last mIoU"):
        return f"{100 * float(str(value)):.2f}"
    if isinstance(value, float) and value % 1:
        return f"{value:.4g}"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _align_columns(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in cells
    ]
    return "\n".join(lines) + "\n"


class SeedGroup(NamedTuple):
    """Runs that differ in their seed alone."""

    name: str
    scores: list[float]  # mIoU of the last validation of each run: the best of many would flatter
    parameters: int | None
    macs: float | None  # of one crop
    seconds: float | None  # of a step, the median over the runs


def format_seed_table(runs: Sequence[Run]) -> str:
    """Return the table of rows of several seeds; an empty text if no settings were run with two."""
    scored = [run for run in runs if run.curves.get("val/mIoU")]
    groups = group_by_settings([run.settings for run in scored])
    if all(len(group) < 2 for group in groups):
        return ""
    found = []
    for group in groups:
        some = [scored[number] for number in group]
        seconds = [second for run in some for _, second in run.curves.get("wall/step_seconds", [])]
        scores = [run.curves["val/mIoU"][-1][1] for run in some]
        median = statistics.median(seconds) if seconds else None
        found.append(SeedGroup(remove_seed(some[0].name), scores, *model_cost(some[0].folder), median))
    note = (
        "mIoU of the last validation in %, mean and standard deviation over the seeds; MACs of one crop; "
        "p of Welch's t-test times the rows compared"
    )
    return f"\n{_align_columns(format_cells(found))}{note}\n"


def group_by_settings(settings: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Return the numbers of runs that have all settings in common but the seed and their name."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for number, some in enumerate(settings):
        key = tuple(sorted((name, str(value)) for name, value in some.items() if name not in FREE))
        found.setdefault(key, []).append(number)
    return list(found.values())


def remove_seed(name: str) -> str:
    """Return the name of a run of a sweep without its seed: ``ablation-seed=0-a=b`` as ``ablation-a=b``."""
    return re.sub(r"-seed=\d+(?=-|$)", "", name)


def model_cost(folder: Path) -> tuple[int | None, float | None]:
    """Return a network's parameters and MACs for a crop, without the auxiliary head; None if unknown."""
    import torch

    from segkit import checkpoint
    from segkit.data.label_map import LabelMap
    from segkit.models import segmenter, summary
    from segkit.runtime import run_folder

    for file in run_folder.list_checkpoints(folder):
        try:
            content = checkpoint.read_checkpoint(file, mapped=True)
            model = segmenter.without_weights(content["settings"]["model"])
            with torch.device("meta"):
                network = segmenter.build(LabelMap.from_plain(content["classes"]).num_classes, **model)
            crop = content["settings"]["sizes"]["crop"]
            sides = (crop, crop) if isinstance(crop, int) else tuple(crop)
            used = [part for part in summary.measure_parts(network, sides) if part.name != "auxiliary"]
        except (KeyError, ValueError, TypeError, RuntimeError, NotImplementedError):
            continue  # of another version, or a foreign part: its score still counts
        return sum(part.parameters for part in used), sum(part.flops for part in used) / 2
    return None, None


def p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the two-sided p of Welch's t-test that two samples of at least two have one mean."""
    from scipy import stats  # a second

    if len(set(a)) == len(set(b)) == 1:  # without spread the test is undefined
        return 1.0 if a[0] == b[0] else 0.0
    _, p = stats.ttest_ind(a, b, equal_var=False)
    return float(p)  # pyright: ignore[reportArgumentType]


def format_cells(rows: Sequence[SeedGroup]) -> list[list[str]]:
    """Return the table, best first, with its heads."""
    rows = sorted(rows, key=lambda row: -statistics.fmean(row.scores))
    compared = sum(len(row.scores) > 1 for row in rows[1:])
    heads = ["settings", "runs", "parameters", "MMACs", "mIoU", "s/step", "against the first"]
    lines = [heads]
    for row in rows:
        spread = f" +- {100 * statistics.stdev(row.scores):.2f}" if len(row.scores) > 1 else ""
        lines.append(
            [
                row.name,
                str(len(row.scores)),
                "-" if row.parameters is None else f"{row.parameters:,}",
                "-" if row.macs is None else f"{row.macs / 1e6:,.1f}",
                f"{100 * statistics.fmean(row.scores):.2f}{spread}",
                "-" if row.seconds is None else f"{row.seconds:.3g}",
                "" if row is rows[0] else _verdict(row, rows[0], compared),
            ]
        )
    return lines


def _verdict(row: SeedGroup, first: SeedGroup, compared: int) -> str:
    if min(len(row.scores), len(first.scores)) < 2:
        return "one run says nothing of the spread"
    p = min(p_value(row.scores, first.scores) * compared, 1.0)
    return f"lower (p {p:.2g})" if p < LEVEL else f"not distinguishable (p {p:.2g})"


def smooth_curve(curve: Points, *, weight: float = 0.9) -> Points:
    """Return the exponential running mean of a curve."""
    smooth, mean = [], None
    for step, value in curve:
        mean = value if mean is None else weight * mean + (1 - weight) * value
        smooth.append((step, mean))
    return smooth


def draw_charts(runs: Sequence[Run], file: Path) -> None:
    """Draw the curves of validation and training."""
    panels = {
        "val/mIoU in %, by iteration": {
            run.name: [(step, 100 * value) for step, value in run.curves.get("val/mIoU", [])] for run in runs
        },
        "train/loss, smoothed, by iteration": {
            run.name: smooth_curve(run.curves.get("train/loss", [])) for run in runs
        },
    }
    overlays.save_image(file, line_charts.draw_line_charts(panels))


def main(arguments: Sequence[str] | None = None) -> str:
    """Read the runs, write what was asked for, and return the table."""
    parser = argparse.ArgumentParser(
        prog="python -m segkit.tools.compare_runs",
        description="compare training runs, or two results of test_seg.py on the same images",
    )
    parser.add_argument(
        "runs", nargs="+", type=parse_path, help="folders of runs, such as runs/*, or of two results"
    )
    for kind in ("csv", "json", "png"):
        parser.add_argument(f"--{kind}", type=parse_path, metavar="FILE")
    chosen = parser.parse_args(arguments)
    if len(chosen.runs) == 2 and all((folder / "image_counts.npz").is_file() for folder in chosen.runs):
        return _compare_results(chosen.runs, chosen.json, chosen.png)
    found, skipped = [], []
    for folder in chosen.runs:
        if not folder.is_dir() and folder.exists():  # a sweep's own multirun.yaml, which runs/* names too
            continue
        try:
            found.append(read_run(folder))
        except ValueError as error:
            skipped.append(str(error))
    if not found:
        parser.error("\n".join(skipped) or "no folder of a run is among them; give such as runs/demo")
    lines = build_rows(found)
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
        draw_charts(found, chosen.png)
    return (
        format_table(lines)
        + "".join(f"left out: {reason}\n" for reason in skipped)
        + format_seed_table(found)
    )


def _compare_results(folders: Sequence[Path], json_file: Path | None, picture: Path | None) -> str:
    """Compare two results of ``test_seg.py`` on the same images; see ``segkit.evaluation.comparison``."""
    from segkit.evaluation import comparison  # loads torch, which the comparison of runs does not need

    first, second = folders
    pair = comparison.read_result(first), comparison.read_result(second)
    found = comparison.compare_results(*pair)
    if json_file:
        rows = {"scores": found.scores, "classes": found.classes}
        content = {key: {row.name: row._asdict() for row in value} for key, value in rows.items()}
        text = json.dumps({**content, "images": dict(found.images)}, indent=1, ensure_ascii=False)
        _write(json_file, text.replace("NaN", "null") + "\n")
    if picture:
        overlays.save_image(picture, comparison.draw_changed_images(found, *pair))
    return comparison.format_comparison(found, str(first), str(second)) + "\n"


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(file) as out:
        out.write(text.encode())


if __name__ == "__main__":
    sys.stdout.write(main())
