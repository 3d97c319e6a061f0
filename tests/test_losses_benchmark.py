"""The table of losses: mean and spread over seeds, of runs that are complete."""

import importlib.util
import json
import random
import statistics

import pytest

from conftest import ROOT, run_command


@pytest.fixture(scope="module")
def losses():
    spec = importlib.util.spec_from_file_location("losses_benchmark", ROOT / "benchmarks" / "losses.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_has_mean_and_spread_of_the_runs_that_are_complete(losses, tmp_path):
    draw, found = random.Random(0), {}
    for loss, complete in (("focal", 3), ("ohem", 1), ("ce_dice", 0)):
        for seed in range(complete):
            scores = {"pixAcc": draw.random(), "mIoU": draw.random()}
            found.setdefault(loss, []).append(scores)
            place = tmp_path / f"x-loss={loss}-seed={seed}"
            place.mkdir()
            (place / "result.json").write_text(json.dumps({"scores": scores}))
            (place / "seconds").write_text("90\n")
    rows = losses.table(tmp_path, "x", ["focal", "ohem", "ce_dice"], [0, 1, 2]).splitlines()[2:]
    miou = [100 * scores["mIoU"] for scores in found["focal"]]
    assert "| `focal` | 3 | " in rows[0]
    assert f"| {statistics.mean(miou):.2f} ± {statistics.stdev(miou):.2f} | 1.5 min |" in rows[0]
    assert rows[1].count("±") == 0
    assert rows[2] == "| `ce_dice` | 0 | - | - | - |"


@pytest.mark.slow
def test_complete_trainings_are_not_repeated(tmp_path):
    small = ["experiment=demo", "data.size=32", "data.val_scenes=2", "model.backbone.width=8"]
    small += ["model.head.width=8", "schedule.iterations=2", "schedule.policy.warmup_iterations=0"]
    small += ["schedule.batch_size=2", "loader.workers=0", f"run_dir={tmp_path}"]
    call = ["benchmarks/losses.py", "train", "--losses", "ce_dice", "--seeds", "0", "--", *small]
    assert "| `ce_dice` | 1 |" in run_command(*call).stdout
    weights = tmp_path / "demo-loss=ce_dice-seed=0" / "last.pt"
    before = weights.stat().st_mtime_ns
    assert "| `ce_dice` | 1 |" in run_command(*call).stdout
    assert weights.stat().st_mtime_ns == before
