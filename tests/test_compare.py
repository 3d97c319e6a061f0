"""Comparing runs, from events written by the monitor."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from segkit.drawing import line_charts
from segkit.monitor import compare
from segkit.monitor.monitor import Monitor

RUNS = {  # mIoU at iterations 10, 20, 30
    "good": ({"schedule.lr": 0.01, "model.name": "a", "seed": 0, "run_name": "good"}, (0.5, 0.75, 0.625)),
    "bad": ({"schedule.lr": 0.5, "model.name": "a", "seed": 0, "run_name": "bad"}, (0.25, 0.125, 0.0625)),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, (settings, scores) in RUNS.items():
        colours = np.zeros((1, 3), np.uint8)
        with Monitor(
            folder / name, total=30, iterations_per_epoch=10, names=["a"], colours=colours
        ) as monitor:
            monitor.hparams(settings)
            for t in range(1, 31):
                monitor.step(t, {"main": 8 / t}, {"all": 0.1}, images=1, data_seconds=0.0)
                if t % 10 == 0:
                    score = scores[t // 10 - 1]
                    monitor.scores(t, {"pixAcc": score / 2 + 0.5, "mIoU": score}, [score])
    (folder / "notes").mkdir()
    return folder


def test_a_run_is_summed_up_by_its_best_validation(runs):
    scores = compare.read(runs / "good").scores()
    assert scores["best mIoU"] == 0.75
    assert scores["best iteration"] == 20
    assert scores["pixAcc there"] == 0.875
    assert scores["last mIoU"] == 0.625
    assert scores["last loss"] == pytest.approx(8 / 30)
    assert scores["iterations"] == 30
    assert scores["hours"] is not None
    assert 0 < scores["hours"] < 0.1


def test_the_best_run_comes_first_with_the_settings_that_differ(runs):
    lines = compare.rows([compare.read(runs / name) for name in ("bad", "good")])
    assert [line["run"] for line in lines] == ["good", "bad"]
    assert [line["schedule.lr"] for line in lines] == [0.01, 0.5]
    assert not {"seed", "model.name", "run_name"} & set(lines[0])


def test_a_setting_that_a_run_does_not_have_differs():
    runs = [compare.Run("a", {"x": 1.0}, {}), compare.Run("b", {}, {})]
    assert compare.differing(runs) == ["x"]
    assert compare.rows(runs)[1]["x"] is None


def test_a_run_that_has_only_begun_is_shown_with_dashes():
    text = compare.table(compare.rows([compare.Run("young", {}, {"train/loss": [(10, 0.5)]})]))
    assert "young" in text
    assert "-" in text


def test_the_table_is_in_percent_and_aligned(runs):
    text = compare.main([str(runs / "good"), str(runs / "bad")])
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1
    columns = [line.split("  ") for line in lines]
    place = [head.strip() for head in columns[0] if head].index("best mIoU")
    values = [[cell.strip() for cell in line if cell] for line in columns[1:]]
    assert [(line[0], line[place]) for line in values] == [("good", "75.00"), ("bad", "25.00")]


@pytest.mark.parametrize("count", [1, 2, 30])
def test_every_run_is_a_row_however_many_there_are(count):
    runs = [compare.Run(f"run{k}", {}, {"val/mIoU": [(1, k / 100)]}) for k in range(count)]
    lines = compare.table(compare.rows(runs)).splitlines()
    assert lines[0].startswith("run ")
    assert [line.split()[0] for line in lines[1:]] == [f"run{k}" for k in reversed(range(count))]


def test_runs_that_score_alike_stand_by_name_in_whatever_order_they_are_given():
    runs = [compare.Run(name, {}, {"val/mIoU": [(1, 0.5)]}) for name in "bca"]
    for given in (runs, runs[::-1]):
        assert [line["run"] for line in compare.rows(given)] == ["a", "b", "c"]


def test_the_own_files_of_a_sweep_are_read_past(runs, tmp_path, capsys):
    (tmp_path / "multirun.yaml").write_text("hydra: {}")
    text = compare.main([str(tmp_path / "multirun.yaml"), str(runs / "good")])
    assert "left out" not in text
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path / "multirun.yaml")])
    assert "no folder of a run is among them" in capsys.readouterr().err


def test_csv_json_and_png_hold_the_same_runs(runs, tmp_path):
    asked = [f"--{kind}={tmp_path / f'new/runs.{kind}'}" for kind in ("csv", "json", "png")]
    compare.main([str(runs / "good"), str(runs / "bad"), *asked])
    with (tmp_path / "new/runs.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["run"], float(line["best mIoU"])) for line in lines] == [("good", 0.75), ("bad", 0.25)]
    content = json.loads((tmp_path / "new/runs.json").read_text())
    assert content[0]["settings"] == RUNS["good"][0]
    drawn = cv2.imread(str(tmp_path / "new/runs.png"))
    assert drawn is not None
    for colour in line_charts.COLOURS[:2]:
        assert (drawn[..., ::-1] == colour).all(-1).sum() > 100


def test_folders_without_events_are_left_out_and_named(runs):
    text = compare.main([str(runs / "good"), str(runs / "notes")])
    assert "left out" in text
    assert f"{runs / 'notes'} holds no TensorBoard events; give folders of runs, such as runs/demo" in text


def test_nothing_to_compare_is_an_error_that_says_what_to_give(runs, capsys):
    with pytest.raises(SystemExit):
        compare.main([str(runs / "notes")])
    assert "give folders of runs, such as runs/demo" in capsys.readouterr().err


def test_it_runs_as_a_module_without_loading_torch(runs):
    code = (
        "import sys; from segkit.monitor import compare; text = compare.main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules; sys.stdout.write(text)"
    )
    for command in (["-c", code], ["-m", "segkit.monitor.compare"]):
        done = subprocess.run(
            [sys.executable, *command, str(runs / "good")],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "75.00" in done.stdout


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 6, [0, 1, 2, 3, 4, 5, 6]),
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (13, 88, [0, 20, 40, 60, 80, 100]),
        (-0.003, 0.011, [-0.005, -0.0025, 0, 0.0025, 0.005, 0.0075, 0.01, 0.0125]),
    ],
)
def test_ticks_are_round_numbers_around_the_data(low, high, expected):
    assert line_charts.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(("low", "high"), [(5, 5), (0, 0), (-2, -2), (1e-12, 1e9), (159999, 160000)])
def test_ticks_enclose_whatever_comes(low, high):
    found = line_charts.ticks(low, high)
    assert found[0] <= low
    assert high <= found[-1]
    assert 2 <= len(found) <= 9


def test_a_chart_survives_nan_nothing_and_a_single_point():
    drawn = line_charts.line_chart({"a": [(0, float("nan"))], "b": [], "c": [(5, 1.0)]}, title="x")
    assert drawn.shape == (340, 900, 3)
    assert (drawn == line_charts.COLOURS[2]).all(-1).any()


def test_smoothing_starts_at_the_first_value_and_keeps_a_constant():
    assert compare.smoothed([(1, 2.0), (2, 2.0)]) == [(1, 2.0), (2, 2.0)]
    assert compare.smoothed([(1, 0.0), (2, 1.0)], weight=0.75) == [(1, 0.0), (2, 0.25)]
