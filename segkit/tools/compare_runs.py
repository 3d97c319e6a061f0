"""Compare runs: ``python -m segkit.tools.compare_runs runs/* [--csv FILE] [--json FILE] [--png FILE]``.

Prints the settings that differ and the scores, read from the TensorBoard events of the runs. Runs that differ
only in their seed form one row of a second table: mean, standard deviation, cost, and the p-value of Welch's
t-test against the best row, times the number of rows compared (Bonferroni).
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segkit.config.values import parse_path
from segkit.runtime import files
from segkit.runtime.errors import report_user_errors
from segkit.visualize import line_charts, overlays, tables

NOT_COMPARED = ("seed", "run_name", "run_dir", "resume")  # settings that may differ between runs of a group
PERCENT = ("best mIoU", "pixAcc at best mIoU", "last mIoU")  # columns that are fractions
SIGNIFICANCE = 0.05
SMOOTHING = 0.9  # weight of the running mean in charts
SEED_NOTE = (
    "mIoU of the last validation in %, mean and standard deviation over the seeds; MACs of one crop; "
    "p-value of Welch's t-test times the number of rows compared"
)
Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Run:
    """Settings and curves of one run, from its events."""

    name: str
    settings: dict[str, float | str]
    curves: dict[str, Points]
    folder: Path = Path()

    def scores(self) -> dict[str, float | None]:
        """Return the best and last validation and the length of the run; None for what it has not reached.

        Hours are training time, without validations and interruptions.
        """
        validations = self.curves.get("val/mIoU", [])
        best_iteration, best = max(validations, key=lambda point: point[1], default=(None, None))
        accuracy = dict(self.curves.get("val/pixAcc", []))
        losses = self.curves.get("train/loss", [])
        seconds = [value for _, value in self.curves.get("wall/step_seconds", [])]
        iterations = max((step for step, _ in losses + validations), default=0)
        return {
            "best mIoU": best,
            "pixAcc at best mIoU": None if best_iteration is None else accuracy.get(best_iteration),
            "best iteration": best_iteration,
            "last mIoU": validations[-1][1] if validations else None,
            "last loss": losses[-1][1] if losses else None,
            "iterations": iterations,
            "hours": sum(seconds) / len(seconds) * iterations / 3600 if seconds else None,
        }


def read_run(folder: Path) -> Run:
    """Read a run from its folder; raise ``ValueError`` if there are no events in it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    if not any(folder.glob("events.out.tfevents.*")):
        raise ValueError(f"{folder}: no TensorBoard events. Give folders of runs, such as runs/demo.")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1, "tensors": 1}).Reload()
    settings: dict[str, float | str] = {}
    if metadata.SESSION_START_INFO_TAG in events.summary_metadata:
        content = events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
        for key, value in metadata.parse_session_start_info_plugin_data(content).hparams.items():
            settings[key] = getattr(value, value.WhichOneof("kind"))
    tags = events.Tags()["scalars"]
    curves = {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}
    return Run(folder.resolve().name, settings, curves, folder)


def build_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return one row per run, best first: name, scores as fractions, settings that differ."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if key != "run_name")
    differing = [key for key in keys if len({str(run.settings.get(key)) for run in runs}) > 1]
    rows = [
        {"run": run.name, **run.scores(), **{key: run.settings.get(key) for key in differing}} for run in runs
    ]
    return sorted(rows, key=lambda row: (-(row["best mIoU"] or 0), row["run"]))


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as text, scores in percent."""
    cells = [[_format_value(key, value) for key, value in row.items()] for row in rows]
    return tables.align_columns([list(rows[0]), *cells])


def _format_value(key: str, value: object) -> str:
    if value is None:
        return "-"
    if key in PERCENT:
        return f"{100 * float(str(value)):.2f}"
    if isinstance(value, float) and value % 1:
        return f"{value:.4g}"
    if isinstance(value, int | float):
        return f"{value:g}"
    return str(value)


def format_seed_table(runs: Sequence[Run]) -> str:
    """Return the table of groups of runs that differ only in their seed; empty without such groups."""
    groups = group_runs([run for run in runs if run.curves.get("val/mIoU")])
    if all(len(group) < 2 for group in groups):
        return ""
    samples = [[run.curves["val/mIoU"][-1][1] for run in group] for group in groups]  # the best is biased
    order = sorted(range(len(groups)), key=lambda index: -statistics.fmean(samples[index]))
    first = samples[order[0]]
    compared = sum(len(samples[index]) > 1 for index in order[1:])
    rows = [["settings", "runs", "parameters", "MMACs", "mIoU", "s/step", "compared with the first"]]
    for index in order:
        group, scores = groups[index], samples[index]
        mean = f"{100 * statistics.fmean(scores):.2f}"
        if len(scores) > 1:
            mean += f" +- {100 * statistics.stdev(scores):.2f}"
        seconds = [second for run in group for _, second in run.curves.get("wall/step_seconds", [])]
        median = f"{statistics.median(seconds):.3g}" if seconds else "-"
        comparison = "" if scores is first else _compare_scores(scores, first, compared)
        cost = model_cost(group[0].folder)
        rows.append([remove_seed(group[0].name), str(len(group)), *cost, mean, median, comparison])
    return f"\n{tables.align_columns(rows)}{SEED_NOTE}\n"


def group_runs(runs: Sequence[Run]) -> list[list[Run]]:
    """Return groups of runs that have all settings in common but the seed and their name."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        key = tuple(sorted((k, str(value)) for k, value in run.settings.items() if k not in NOT_COMPARED))
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _compare_scores(scores: Sequence[float], first: Sequence[float], compared: int) -> str:
    if min(len(scores), len(first)) < 2:
        return "only one run"
    p = min(p_value(scores, first) * compared, 1.0)
    if p < SIGNIFICANCE:
        return f"lower (p {p:.2g})"
    return f"not distinguishable (p {p:.2g})"


def remove_seed(name: str) -> str:
    """Return the name of a run of a sweep without its seed: ``ablation-seed=0-a=b`` as ``ablation-a=b``."""
    return re.sub(r"-seed=\d+(?=-|$)", "", name)


def model_cost(folder: Path) -> tuple[str, str]:
    """Return a network's parameters and 10^6 MACs of a crop, without the auxiliary head; "-" if unknown."""
    import torch

    from segkit import checkpoint
    from segkit.data.label_map import LabelMap
    from segkit.models import segmenter, summary
    from segkit.runtime import run_folder

    for file in run_folder.list_checkpoints(folder):
        try:
            content = checkpoint.read_checkpoint(file, mapped=True)
            model = segmenter.remove_weights(content["settings"]["model"])
            with torch.device("meta"):
                network = segmenter.build(LabelMap.from_plain(content["classes"]).num_classes, **model)
            crop = content["settings"]["sizes"]["crop"]
            size = (crop, crop) if isinstance(crop, int) else tuple(crop)
            parts = [part for part in summary.measure_parts(network, size) if part.name != "auxiliary"]
        except (KeyError, ValueError, TypeError, RuntimeError, NotImplementedError):
            continue  # of another version, or with another project's parts
        parameters, flops = sum(part.parameters for part in parts), sum(part.flops for part in parts)
        return f"{parameters:,}", f"{flops / 2e6:,.1f}"
    return "-", "-"


def p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the two-sided p-value of Welch's t-test for equal means; each sample has at least two values."""
    from scipy import stats  # takes a second

    if len(set(a)) == len(set(b)) == 1:  # without variance the test is undefined
        return float(a[0] == b[0])
    return float(stats.ttest_ind(a, b, equal_var=False).pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def smooth_curve(curve: Points) -> Points:
    """Return the running mean, starting at the first value."""
    smooth, mean = [], None
    for step, value in curve:
        mean = value if mean is None else SMOOTHING * mean + (1 - SMOOTHING) * value
        smooth.append((step, mean))
    return smooth


def draw_charts(runs: Sequence[Run], file: Path) -> None:
    """Draw the curves of validation and training."""
    scores, losses = {}, {}
    for run in runs:
        scores[run.name] = [(step, 100 * value) for step, value in run.curves.get("val/mIoU", [])]
        losses[run.name] = smooth_curve(run.curves.get("train/loss", []))
    panels = {"val/mIoU in %, by iteration": scores, "train/loss, smoothed, by iteration": losses}
    overlays.save_image(file, line_charts.draw_line_charts(panels))


def main(arguments: Sequence[str] | None = None) -> str:
    """Read the runs, write the requested files, and return the tables; raise ``ValueError`` without runs."""
    parser = argparse.ArgumentParser(
        prog="python -m segkit.tools.compare_runs",
        description="compare training runs, or two results of test_seg.py on the same images",
    )
    parser.add_argument("runs", nargs="+", type=parse_path, help="folders of runs, or of two results")
    for kind in ("csv", "json", "png"):
        parser.add_argument(f"--{kind}", type=parse_path, metavar="FILE")
    options = parser.parse_args(arguments)
    if len(options.runs) == 2 and all((folder / "image_counts.npz").is_file() for folder in options.runs):
        return _compare_results(options.runs, options.json, options.png)
    runs, errors = [], []
    for folder in options.runs:
        if folder.exists() and not folder.is_dir():  # runs/* also matches the multirun.yaml of a sweep
            continue
        try:
            runs.append(read_run(folder))
        except ValueError as error:
            errors.append(str(error))
    if not runs:
        raise ValueError("\n".join(errors) or "no folders of runs. Give some, such as runs/demo.")
    rows = build_rows(runs)
    if options.csv:
        sheet = io.StringIO()
        writer = csv.DictWriter(sheet, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        files.write_text(options.csv, sheet.getvalue())
    if options.json:
        content = [{"run": run.name, "scores": run.scores(), "settings": run.settings} for run in runs]
        files.write_json(options.json, content)
    if options.png:
        draw_charts(runs, options.png)
    skipped = "".join(f"skipped: {error}\n" for error in errors)
    return format_table(rows) + skipped + format_seed_table(runs)


def _compare_results(folders: Sequence[Path], json_file: Path | None, picture: Path | None) -> str:
    """Compare two results of ``test_seg.py`` on the same images."""
    from segkit.evaluation import comparison  # loads torch, which the comparison of runs does not need

    first, second = (comparison.read_result(folder) for folder in folders)
    found = comparison.compare_results(first, second)
    if json_file:
        rows = {"scores": found.scores, "classes": found.classes}
        content = {key: {row.name: row._asdict() for row in value} for key, value in rows.items()}
        files.write_json(json_file, {**content, "images": dict(found.images)})
    if picture:
        overlays.save_image(picture, comparison.draw_changed_images(found, first, second))
    return comparison.format_comparison(found, *map(str, folders))


if __name__ == "__main__":
    report_user_errors(lambda: print(main(), end=""))  # noqa: T201
