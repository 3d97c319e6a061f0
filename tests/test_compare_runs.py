"""Comparing runs, from events written by the monitor."""

from __future__ import annotations

import csv
import json
import re

import cv2
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import run_command
from segkit import checkpoint
from segkit.models import segmenter, summary
from segkit.monitor.monitor import Monitor
from segkit.tools import compare_runs as compare
from segkit.visualize import line_charts

COLORS = [(31, 119, 180), (255, 127, 14), (44, 160, 44)]  # the first three of matplotlib
RUNS = {  # mIoU at iterations 10, 20, 30
    "good": ({"schedule.lr": 0.01, "model.name": "a", "seed": 0, "run_name": "good"}, (0.5, 0.75, 0.625)),
    "bad": ({"schedule.lr": 0.5, "model.name": "a", "seed": 0, "run_name": "bad"}, (0.25, 0.125, 0.0625)),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, (settings, scores) in RUNS.items():
        colors = np.zeros((1, 3), np.uint8)
        with Monitor(folder / name, total=30, iterations_per_epoch=10, names=["a"], colors=colors) as monitor:
            monitor.log_settings(settings, network="")
            for t in range(1, 31):
                monitor.log_step(t, {"main": 8 / t}, {"all": 0.1}, images=1, data_seconds=0.0)
                if t % 10 == 0:
                    score = scores[t // 10 - 1]
                    monitor.log_scores(t, {"pixAcc": score / 2 + 0.5, "mIoU": score}, {"IoU": [score]})
    (folder / "notes").mkdir()
    return folder


def test_scores_of_a_run_include_its_best_validation(runs):
    scores = compare.read_run(runs / "good").scores()
    hours = scores.pop("hours")
    assert scores == {
        "best mIoU": 0.75,
        "pixAcc at best mIoU": 0.875,
        "best iteration": 20,
        "last mIoU": 0.625,
        "last loss": pytest.approx(8 / 30),
        "iterations": 30,
    }
    assert 0 < hours < 0.1


def test_table_has_the_best_run_first_with_differing_settings_in_percent(runs):
    lines = compare.main([str(runs / "bad"), str(runs / "good")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    header, *rows = [re.split(r" {2,}", line) for line in lines]
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    assert [(row["run"], row["best mIoU"], row["schedule.lr"]) for row in rows] == [
        ("good", "75.00", "0.01"),
        ("bad", "25.00", "0.5"),
    ]
    assert not {"seed", "model.name", "run_name"} & set(header)


def test_missing_settings_and_scores_are_dashes_and_equal_runs_are_sorted_by_name():
    runs = [compare.Run(name, {}, {"train/loss": [(10, 0.5)]}) for name in "bc"]
    rows = compare.build_rows([*runs, compare.Run("a", {"x": 1.0}, {})])
    assert [(row["run"], row["x"]) for row in rows] == [("a", 1.0), ("b", None), ("c", None)]
    assert compare.format_table(rows).splitlines()[2].split()[1] == "-"


def test_folders_without_events_are_named_unlike_files(runs, tmp_path):
    file, notes = tmp_path / "multirun.yaml", runs / "notes"
    file.write_text("hydra: {}")
    lines = compare.main([str(file), str(runs / "good"), str(notes)]).splitlines()
    assert lines[2:] == [f"skipped: {notes}: no TensorBoard events. Give folders of runs, such as runs/demo."]
    for path, message in ((file, "no folders of runs"), (notes, "Give folders")):
        with pytest.raises(ValueError, match=message):
            compare.main([str(path)])


def test_csv_json_and_png_contain_the_same_runs(runs, tmp_path):
    options = [f"--{kind}={tmp_path / f'new/runs.{kind}'}" for kind in ("csv", "json", "png")]
    compare.main([str(runs / "good"), str(runs / "bad"), *options])
    with (tmp_path / "new/runs.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["run"], float(line["best mIoU"])) for line in lines] == [("good", 0.75), ("bad", 0.25)]
    content = json.loads((tmp_path / "new/runs.json").read_text())
    assert content[0]["settings"] == RUNS["good"][0] | {"schedule.length": 30}
    drawn = cv2.imread(str(tmp_path / "new/runs.png"))
    assert drawn is not None
    for color in COLORS[:2]:
        assert (drawn[..., ::-1] == color).all(-1).sum() > 100


@pytest.mark.medium
def test_module_does_not_import_torch(runs):
    code = (
        "import sys; from segkit.tools import compare_runs as compare; text = compare.main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules; sys.stdout.write(text)"
    )
    for command in (["-c", code], ["-m", "segkit.tools.compare_runs"]):
        assert "75.00" in run_command(*command, runs / "good").stdout


def test_chart_accepts_nan_empty_and_single_points():
    drawn = line_charts.draw_line_charts({"x": {"a": [(0, float("nan"))], "b": [], "c": [(5, 1.0)]}})
    assert drawn.shape == (360, 900, 3)
    assert (drawn == COLORS[2]).all(-1).any()


def test_smooth_curve_starts_at_the_first_value():
    smooth = dict(compare.smooth_curve([(1, 1.0), (2, 0.0), (3, 0.0)]))
    assert smooth == pytest.approx({1: 1.0, 2: 0.9, 3: 0.81})


def test_p_value_of_samples_without_variance():
    assert compare.p_value([0.5, 0.5], [0.5, 0.5]) == 1
    assert compare.p_value([0.5, 0.5], [0.25, 0.25]) == 0


def test_names_of_groups_have_no_seed():
    assert compare.remove_seed("ablation-seed=12-model_backbone=a") == "ablation-model_backbone=a"
    assert compare.remove_seed("ablation-model_backbone=a-seed=0") == "ablation-model_backbone=a"
    assert compare.remove_seed("preseed=1") == "preseed=1"


def seed_runs(**scores):
    """Return runs whose names and settings are a group and a seed, with the last of their scores given."""
    return [
        compare.Run(
            f"{name}-seed={seed}",
            {"model": name, "seed": seed, "run_name": f"{name}-seed={seed}"},
            {"val/mIoU": [(1, 0.9), (2, score)], "wall/step_seconds": [(1, 0.5), (2, 0.25), (3, 0.25)]},
        )
        for name, values in scores.items()
        for seed, score in enumerate(values)
    ]


def read_table(text):
    header, *rows = [re.split(r" {2,}", line.strip()) for line in text.splitlines()[1:-1]]
    return {row[0]: dict(zip(header, row, strict=False)) for row in rows}


def test_seed_table_reports_significance(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = {"near": [0.50, 0.53, 0.47], "best": [0.51, 0.54, 0.50], "far": [0.101, 0.100, 0.102]}
    table = read_table(compare.format_seed_table(seed_runs(**scores, once=[0.3])))
    assert list(table) == ["best", "near", "once", "far"]
    assert table["best"]["mIoU"] == "51.67 +- 2.08"
    assert (table["best"]["runs"], table["best"]["s/step"], table["best"]["MMACs"]) == ("3", "0.25", "-")
    compared = {name: row.get("compared with the first", "") for name, row in table.items()}
    assert compared["best"] == ""
    assert compared["near"].startswith("not distinguishable (p ")
    assert compared["once"] == "only one run"
    assert compared["far"].startswith("lower (p 0.00")
    assert compare.format_seed_table(seed_runs(a=[0.1], b=[0.2])) == ""


def test_command_adds_the_table_of_equal_settings(runs):
    table = compare.main([str(runs / "good")] * 2).split("\n\n")[-1]
    assert "62.50 +- 0.00" in table


def test_p_value_is_corrected_for_many_comparisons(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair = {"a": [0.50, 0.52, 0.51], "b": [0.47, 0.485, 0.48]}
    others = {f"c{number}": [0.1, 0.2, 0.3] for number in range(5)}
    for more, verdict in (({}, "lower"), (others, "not distinguishable")):
        table = read_table(compare.format_seed_table(seed_runs(**pair, **more)))
        assert table["b"]["compared with the first"].startswith(verdict)


@pytest.mark.medium
def test_model_cost_is_that_of_the_checkpoint(tiny_run):
    content = checkpoint.read_checkpoint(tiny_run / "last.pt")
    with torch.device("meta"):
        model = segmenter.build(10, **content["settings"]["model"])
    crop = content["settings"]["sizes"]["crop"]
    image = torch.empty(1, 3, *((crop, crop) if isinstance(crop, int) else crop), device="meta")
    parameters, macs = compare.model_cost(tiny_run)
    expected = summary.count_parameters(model.backbone) + summary.count_parameters(model.head)
    assert parameters == f"{expected:,}"
    with FlopCounterMode(display=False) as counter:
        model.eval()(image)
    assert macs == f"{counter.get_total_flops() / 2e6:,.1f}"
