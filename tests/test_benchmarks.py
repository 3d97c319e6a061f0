"""Each benchmark runs at a small size, and `make bench` fails where a ratio has moved."""

import csv
import json
import os
import sys
from argparse import Namespace

import cv2
import pytest
import torch

from conftest import ROOT, run_command


@pytest.fixture
def benchmarks(monkeypatch):
    """Let the scripts be imported, and leave threads and modules as they were."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", os.environ.get("NO_ALBUMENTATIONS_UPDATE", "1"))
    threads, known = (cv2.getNumThreads(), torch.get_num_threads()), set(sys.modules)
    yield
    cv2.setNumThreads(threads[0])
    torch.set_num_threads(threads[1])
    for name in set(sys.modules) - known:
        if str(ROOT / "benchmarks") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_bench_fails_for_ratios_outside_their_tolerance(benchmarks, monkeypatch, tmp_path, capsys):
    import bench

    flags = ["avx2", "avx512f"]
    monkeypatch.setattr(bench.ceilings, "describe_machine", lambda threads: f"a machine ({', '.join(flags)})")
    monkeypatch.setattr(bench.ceilings, "cpu_flags", lambda: flags)
    file = tmp_path / "expected.csv"

    def run(found, *words):
        runs = iter(found)
        monkeypatch.setattr(bench, "measure_ratios", lambda: next(runs))
        monkeypatch.setattr(sys, "argv", ["bench.py", "--expected", str(file), *words])
        bench.main()

    run([{"a": 2.0, "b": 1.0}, {"a": 2.2, "b": 1.0}], "--write", "--repeat", "2")
    rows = {row["ratio"]: row for row in csv.DictReader(file.read_text().splitlines())}
    assert (float(rows["a"]["expected"]), float(rows["b"]["tolerance"])) == (2.1, 0.1)
    run([{"a": 1.95, "b": 1.09}])
    for found, reason in (
        ({"a": 1.7, "b": 1.0}, "a: 1.70 instead of 2.10"),
        ({"b": 1.0}, "a: not measured"),
        ({"a": 2.1, "b": 1.0, "c": 1.0}, "c: not in the file"),
    ):
        with pytest.raises(SystemExit, match=reason):
            run([found])
    flags.remove("avx512f")
    with pytest.raises(SystemExit):
        run([{"a": 2.0, "b": 1.0}])
    assert "no ratios of a processor like this one" in capsys.readouterr().err
    run([{"a": 1.0}, {"a": 1.0}], "--write", "--repeat", "2")
    kept = [row["expected"] for row in csv.DictReader(file.read_text().splitlines())]
    assert kept == ["2.100", "1.000", "1.000"]


@pytest.mark.medium
def test_loader_benchmark(benchmarks, monkeypatch, tmp_path, capsys):
    import loader

    case = loader.Case("tiny", (48, 64), ".png", 64, 32, decoded=False, color=False, files=2, samples=24)
    monkeypatch.setattr(loader, "CASES", [case])
    monkeypatch.setattr(sys, "argv", ["loader.py", "--rounds", "1", "--results", str(tmp_path / "x.jsonl")])
    loader.main()
    (part,) = map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines())
    assert part["rates"].keys() == loader.SIDES.keys()
    assert all(rate > 0 for rate in part["rates"].values())
    assert "| tiny | " in capsys.readouterr().out


@pytest.mark.medium
def test_benchmark_steps_equal_published_code(benchmarks, monkeypatch):
    import train_sides
    from torch import nn

    def network(given, build=train_sides.build_network):
        model = build(given)
        for module in model.modules():
            if isinstance(module, nn.Dropout | nn.Dropout2d):
                module.p = 0.0  # its masks are drawn from other generators
        return model

    monkeypatch.setattr(train_sides, "build_network", network)
    given = Namespace(variant="14", batch=8, crop=48, classes=7, seed=3, device="cpu")
    batch = train_sides.make_batch(given)
    ours, theirs = (train_sides.make_step(given, side, "float32") for side in ("segkit", "published"))
    for _ in range(3):
        assert float(ours(*batch)) == pytest.approx(float(theirs(*batch)), rel=1e-3)


@pytest.mark.medium
@pytest.mark.slow
def test_train_step_benchmark(tmp_path):
    results = tmp_path / "found.jsonl"
    words = ["--variant", "14", "--crop", "32", "--threads", "1", "--rounds", "1", "--results", results]
    words += ["--sides", "segkit", "published", "--modes", "float32"]
    printed = run_command("benchmarks/train_step.py", *words).stdout
    (steps,) = map(json.loads, results.read_text().splitlines())
    assert {*steps["rows"]} == {"segkit", "published"}
    assert "| published | " in printed
