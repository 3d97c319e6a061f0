"""Comparing runs, from events written by the monitor."""

from __future__ import annotations

import csv
import json

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
from segkit.tools.compare_runs import SeedGroup, format_cells, group_by_settings, p_value, remove_seed
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
    assert scores["best mIoU"] == 0.75
    assert scores["best iteration"] == 20
    assert scores["pixAcc at best mIoU"] == 0.875
    assert scores["last mIoU"] == 0.625
    assert scores["last loss"] == pytest.approx(8 / 30)
    assert scores["iterations"] == 30
    assert scores["hours"] is not None
    assert 0 < scores["hours"] < 0.1


def test_best_run_comes_first_with_differing_settings(runs):
    lines = compare.build_rows([compare.read_run(runs / name) for name in ("bad", "good")])
    assert [line["run"] for line in lines] == ["good", "bad"]
    assert [line["schedule.lr"] for line in lines] == [0.01, 0.5]
    assert not {"seed", "model.name", "run_name"} & set(lines[0])


@pytest.mark.medium
def test_missing_setting_counts_as_different():
    runs = [compare.Run("a", {"x": 1.0}, {}), compare.Run("b", {}, {})]
    assert compare.differing_settings(runs) == ["x"]
    assert compare.build_rows(runs)[1]["x"] is None


@pytest.mark.medium
def test_run_without_validation_has_dashes():
    text = compare.format_table(compare.build_rows([compare.Run("young", {}, {"train/loss": [(10, 0.5)]})]))
    assert "young" in text
    assert "-" in text


def test_table_is_in_percent_and_aligned(runs):
    text = compare.main([str(runs / "good"), str(runs / "bad")])
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1
    columns = [line.split("  ") for line in lines]
    place = [head.strip() for head in columns[0] if head].index("best mIoU")
    values = [[cell.strip() for cell in line if cell] for line in columns[1:]]
    assert [(line[0], line[place]) for line in values] == [("good", "75.00"), ("bad", "25.00")]


@pytest.mark.medium
def test_runs_with_equal_scores_are_sorted_by_name():
    runs = [compare.Run(name, {}, {"val/mIoU": [(1, 0.5)]}) for name in "bca"]
    for order in (runs, runs[::-1]):
        assert [line["run"] for line in compare.build_rows(order)] == ["a", "b", "c"]


def test_multirun_yaml_is_ignored_and_no_runs_are_an_error(runs, tmp_path, capsys):
    (tmp_path / "multirun.yaml").write_text("hydra: {}")
    text = compare.main([str(tmp_path / "multirun.yaml"), str(runs / "good")])
    assert "skipped" not in text
    for path, message in (
        (tmp_path / "multirun.yaml", "no folders of runs"),
        (runs / "notes", "Give folders"),
    ):
        with pytest.raises(SystemExit):
            compare.main([str(path)])
        assert message in capsys.readouterr().err


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


def test_folders_without_events_are_skipped_and_named(runs):
    text = compare.main([str(runs / "good"), str(runs / "notes")])
    assert "skipped" in text
    assert f"{runs / 'notes'}: no TensorBoard events. Give folders of runs, such as runs/demo" in text


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
    assert compare.smooth_curve([(1, 2.0), (2, 2.0)]) == [(1, 2.0), (2, 2.0)]
    assert compare.smooth_curve([(1, 0.0), (2, 1.0)], weight=0.75) == [(1, 0.0), (2, 0.25)]


def test_p_value_of_samples_without_variance():
    assert p_value([0.5, 0.5], [0.5, 0.5]) == 1
    assert p_value([0.5, 0.5], [0.25, 0.25]) == 0


def test_runs_are_grouped_by_settings_without_seed():
    settings = [
        {"seed": seed, "run_name": f"x-{lr}-{seed}", "schedule.lr": lr} for seed in (0, 1) for lr in (1, 2)
    ]
    assert group_by_settings(settings) == [[0, 2], [1, 3]]
    assert remove_seed("ablation-seed=12-model_backbone=a") == "ablation-model_backbone=a"
    assert remove_seed("ablation-model_backbone=a-seed=0") == "ablation-model_backbone=a"
    assert remove_seed("preseed=1") == "preseed=1"


def test_seed_table_reports_significance():
    rows = [
        SeedGroup("near", [0.50, 0.53, 0.47], 1_000_000, 2e9, 0.5),
        SeedGroup("best", [0.51, 0.54, 0.50], 2_000_000, 3e9, 0.25),
        SeedGroup("far", [0.101, 0.100, 0.102], None, None, None),
        SeedGroup("once", [0.3], 1, 1e6, 0.1),
    ]
    header, *cells = format_cells(rows)
    assert [line[0] for line in cells] == ["best", "near", "once", "far"]
    best, near, once, far = (dict(zip(header, line, strict=True)) for line in cells)
    assert (best["mIoU"], best["parameters"], best["MMACs"]) == ("51.67 +- 2.08", "2,000,000", "3,000.0")
    assert best["compared with the first"] == ""
    assert near["compared with the first"].startswith("not distinguishable (p ")
    assert once["compared with the first"] == "only one run"
    assert far["compared with the first"].startswith("lower (p 0.00")
    assert (far["parameters"], far["s/step"]) == ("-", "-")


def test_p_value_is_corrected_for_many_comparisons():
    first = SeedGroup("a", [0.50, 0.52, 0.51], None, None, None)
    other = SeedGroup("b", [0.47, 0.485, 0.48], None, None, None)
    alone = format_cells([first, other])[-1][-1]
    among = format_cells(
        [first, other, *(SeedGroup(f"c{n}", [0.1, 0.2, 0.3], None, None, None) for n in range(5))]
    )
    assert alone.startswith("lower")
    assert next(line for line in among if line[0] == "b")[-1].startswith("not distinguishable")


@pytest.mark.medium
def test_model_cost_is_that_of_the_checkpoint(tiny_run):
    content = checkpoint.read_checkpoint(tiny_run / "last.pt")
    with torch.device("meta"):
        model = segmenter.build(10, **content["settings"]["model"])
    crop = content["settings"]["sizes"]["crop"]
    image = torch.empty(1, 3, *((crop, crop) if isinstance(crop, int) else crop), device="meta")
    parameters, macs = compare.model_cost(tiny_run)
    assert parameters == summary.count_parameters(model.backbone) + summary.count_parameters(model.head)
    with FlopCounterMode(display=False) as counter:
        model.eval()(image)
    assert macs == counter.get_total_flops() / 2


def test_command_prints_seed_table_for_several_seeds(runs_of_seeds):
    text = compare.main([str(folder) for folder in runs_of_seeds.iterdir()])
    table = text.split("\n\n")[-1]
    lines = table.splitlines()
    assert lines[0].split()[:2] == ["settings", "runs"]
    assert [line.split()[0] for line in lines[1:3]] == ["x-model=b", "x-model=a"]
    assert "50.00 +- 10.00" in lines[2]
    assert "not distinguishable" in lines[2]
    single = compare.main([str(runs_of_seeds / "x-model=a-seed=0")])
    assert "distinguishable" not in single
    assert "+-" not in single


@pytest.fixture
def runs_of_seeds(tmp_path):
    scores = {"a": (0.4, 0.5, 0.6), "b": (0.5, 0.55, 0.6)}
    for model, values in scores.items():
        for seed, score in enumerate(values):
            name, colors = f"x-model={model}-seed={seed}", np.zeros((1, 3), np.uint8)
            with Monitor(tmp_path / name, total=10, iterations_per_epoch=10, names=["a"], colors=colors) as m:
                m.log_settings({"model.name": model, "seed": seed, "run_name": name}, network="")
                m.log_step(10, {"main": 1.0}, {"all": 0.1}, images=1, data_seconds=0.0)
                m.log_scores(10, {"pixAcc": score, "mIoU": score}, {"IoU": [score]})
    return tmp_path
