"""Runs that differ in their seed alone as one row: mean and spread, and which rows can be told apart.

A row is told apart from the first where Welch's t-test says so at five percent, its p multiplied by the
number of rows compared (Bonferroni): with few seeds, little can be.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FREE = ("seed", "run_name", "run_dir", "resume")  # may differ within a row
LEVEL = 0.05


class Row(NamedTuple):
    """Runs of one choice of settings."""

    name: str
    scores: list[float]  # mIoU of the last validation of each run: the best of many would flatter
    parameters: int | None
    macs: float | None
    seconds: float | None  # of a step, the median over the runs


def grouped(settings: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Which runs have all settings in common but the seed and their name, in the order of their first."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for number, some in enumerate(settings):
        key = tuple(sorted((name, str(value)) for name, value in some.items() if name not in FREE))
        found.setdefault(key, []).append(number)
    return list(found.values())


def without_seed(name: str) -> str:
    """The name of a run of a sweep without its seed: ``ablation-seed=0-a=b`` as ``ablation-a=b``."""
    return re.sub(r"-seed=\d+(?=-|$)", "", name)


def cost(folder: Path) -> tuple[int | None, float | None]:
    """Parameters of a run's network, auxiliary head left out, and MACs for one crop; None if unknown."""
    import torch

    from segkit import checkpoint
    from segkit.data.labels import LabelTable
    from segkit.models import segmenter, summary
    from segkit.system import runs

    for file in runs.checkpoints_in(folder):
        try:
            content = checkpoint.read(file, mapped=True)
            model = dict(content["settings"]["model"], weights=None)
            model["backbone"] = {**model["backbone"], "weights": None}
            with torch.device("meta"):
                network = segmenter.build(LabelTable.from_plain(content["classes"]).num_classes, **model)
            crop = content["settings"]["sizes"]["crop"]
            sides = (crop, crop) if isinstance(crop, int) else tuple(crop)
            used = [part for part in summary.parts(network, sides) if part.name != "auxiliary"]
        except (KeyError, ValueError, TypeError, RuntimeError, NotImplementedError):
            continue  # of another version, or a foreign part: its score still counts
        return sum(part.parameters for part in used), sum(part.flops for part in used) / 2
    return None, None


def p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of Welch's t-test that two samples of at least two have one mean.

    With v degrees of freedom and tan(u) = t / sqrt(v) it is the integral of cos(u)^(v - 1) beyond u, divided
    by that from 0 on.
    """
    spreads = [statistics.variance(x) / len(x) for x in (a, b)]
    gap = abs(statistics.fmean(a) - statistics.fmean(b))
    if sum(spreads) == 0:
        return 1.0 if gap == 0 else 0.0
    freedom = sum(spreads) ** 2 / sum(s**2 / (len(x) - 1) for s, x in zip(spreads, (a, b), strict=True))
    start = np.arctan(gap / np.sqrt(sum(spreads) * freedom))
    beyond, whole = (
        np.trapezoid(np.cos(u) ** (freedom - 1), u)
        for u in (np.linspace(begin, np.pi / 2, 20_001) for begin in (start, 0.0))
    )
    return float(beyond / whole)


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table, best first, with its heads."""
    rows = sorted(rows, key=lambda row: -statistics.fmean(row.scores))
    compared = sum(len(row.scores) > 1 for row in rows[1:])
    heads = ["settings", "runs", "parameters", "MMACs", "mIoU", "s/step", "against the first"]
    return [heads, *([*_told(row), _against(row, rows[0], compared)] for row in rows)]


def _told(row: Row) -> list[str]:
    spread = f" +- {100 * statistics.stdev(row.scores):.2f}" if len(row.scores) > 1 else ""
    return [
        row.name,
        str(len(row.scores)),
        "-" if row.parameters is None else f"{row.parameters:,}",
        "-" if row.macs is None else f"{row.macs / 1e6:,.1f}",
        f"{100 * statistics.fmean(row.scores):.2f}{spread}",
        "-" if row.seconds is None else f"{row.seconds:.3g}",
    ]


def _against(row: Row, first: Row, compared: int) -> str:
    if row is first:
        return ""
    if min(len(row.scores), len(first.scores)) < 2:
        return "one run says nothing of the spread"
    p = min(p_value(row.scores, first.scores) * compared, 1.0)
    return f"lower (p {p:.2g})" if p < LEVEL else f"not distinguishable (p {p:.2g})"
