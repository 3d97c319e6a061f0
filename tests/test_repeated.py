"""Runs of several seeds as one row: means, spreads, and what can be told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segkit import checkpoint
from segkit.models import segmenter, summary
from segkit.monitor import compare, repeated
from segkit.monitor.repeated import Row, cells, grouped, p_value, without_seed


def test_p_values_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats", reason="scipy is the one to agree with")
    draw = np.random.default_rng(0)
    for _ in range(200):
        a, b = (
            draw.normal(draw.normal(), draw.uniform(0.1, 3), draw.integers(2, 9)).tolist() for _ in range(2)
        )
        expected = stats.ttest_ind(a, b, equal_var=False).pvalue
        assert p_value(a, b) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_samples_without_spread_are_equal_or_not():
    assert p_value([0.5, 0.5], [0.5, 0.5]) == 1
    assert p_value([0.5, 0.5], [0.25, 0.25]) == 0


def test_runs_that_differ_in_the_seed_alone_are_one_row():
    settings = [
        {"seed": seed, "run_name": f"x-{lr}-{seed}", "schedule.lr": lr} for seed in (0, 1) for lr in (1, 2)
    ]
    assert grouped(settings) == [[0, 2], [1, 3]]
    assert without_seed("ablation-seed=12-model_backbone=a") == "ablation-model_backbone=a"
    assert without_seed("ablation-model_backbone=a-seed=0") == "ablation-model_backbone=a"
    assert without_seed("preseed=1") == "preseed=1"


def test_the_table_says_what_the_spread_lets_it_say():
    rows = [
        Row("near", [0.50, 0.53, 0.47], 1_000_000, 2e9, 0.5),
        Row("best", [0.51, 0.54, 0.50], 2_000_000, 3e9, 0.25),
        Row("far", [0.101, 0.100, 0.102], None, None, None),
        Row("once", [0.3], 1, 1e6, 0.1),
    ]
    heads, *told = cells(rows)
    assert [line[0] for line in told] == ["best", "near", "once", "far"]
    best, near, once, far = (dict(zip(heads, line, strict=True)) for line in told)
    assert (best["mIoU"], best["parameters"], best["MMACs"]) == ("51.67 +- 2.08", "2,000,000", "3,000.0")
    assert best["against the first"] == ""
    assert near["against the first"].startswith("not distinguishable (p ")
    assert once["against the first"] == "one run says nothing of the spread"
    assert far["against the first"].startswith("lower (p 0.00")
    assert (far["parameters"], far["s/step"]) == ("-", "-")


def test_many_comparisons_need_more_than_one():
    first = Row("a", [0.50, 0.52, 0.51], None, None, None)
    other = Row("b", [0.47, 0.485, 0.48], None, None, None)
    alone = cells([first, other])[-1][-1]
    among = cells([first, other, *(Row(f"c{n}", [0.1, 0.2, 0.3], None, None, None) for n in range(5))])
    assert alone.startswith("lower")
    assert next(line for line in among if line[0] == "b")[-1].startswith("not distinguishable")


def test_cost_is_that_of_the_network_in_the_checkpoint(tiny_run):
    content = checkpoint.read(tiny_run / "last.pt")
    with torch.device("meta"):
        model = segmenter.build(10, **content["settings"]["model"])
    crop = content["settings"]["sizes"]["crop"]
    image = torch.empty(1, 3, *((crop, crop) if isinstance(crop, int) else crop), device="meta")
    parameters, macs = repeated.cost(tiny_run)
    assert parameters == summary.parameters(model.backbone) + summary.parameters(model.head)
    with FlopCounterMode(display=False) as counter:
        model.eval()(image)
    assert macs == counter.get_total_flops() / 2


def test_the_command_adds_the_rows_where_there_are_several_seeds(runs_of_seeds):
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
    from segkit.monitor.monitor import Monitor

    scores = {"a": (0.4, 0.5, 0.6), "b": (0.5, 0.55, 0.6)}
    for model, some in scores.items():
        for seed, score in enumerate(some):
            name, colours = f"x-model={model}-seed={seed}", np.zeros((1, 3), np.uint8)
            with Monitor(
                tmp_path / name, total=10, iterations_per_epoch=10, names=["a"], colours=colours
            ) as m:
                m.hparams({"model.name": model, "seed": seed, "run_name": name})
                m.step(10, {"main": 1.0}, {"all": 0.1}, images=1, data_seconds=0.0)
                m.scores(10, {"pixAcc": score, "mIoU": score}, [score])
    return tmp_path
