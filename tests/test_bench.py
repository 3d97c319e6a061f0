"""`make bench`: ratios against those that are written down, and an exit status that says so."""

import csv
import random
import statistics
import sys

import pytest

from conftest import ROOT


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import bench

    monkeypatch.setattr(bench.ceilings, "machine", lambda threads: "a machine")
    return bench


@pytest.fixture
def call(bench, monkeypatch):
    """``call(found, *words)``: the command, where the sets measure ``found``, one dictionary a run."""

    def run(found, *words):
        runs = iter(found)
        monkeypatch.setattr(bench, "measured", lambda: next(runs))
        monkeypatch.setattr(sys, "argv", ["bench.py", *map(str, words)])
        bench.main()

    return run


def test_what_is_written_is_the_median_and_twice_the_spread(call, tmp_path):
    draw, file = random.Random(0), tmp_path / "expected.csv"
    for _ in range(20):
        runs = [{"a": draw.uniform(1, 2), "b": draw.uniform(1, 1.01)} for _ in range(draw.randint(2, 6))]
        call(runs, "--write", "--repeat", len(runs), "--expected", file)
        rows = {row["ratio"]: row for row in csv.DictReader(file.read_text().splitlines())}
        for name, row in rows.items():
            values = [found[name] for found in runs]
            middle = statistics.median(values)
            spread = max(max(values) / middle - 1, 1 - min(values) / middle)
            assert float(row["expected"]) == pytest.approx(middle, abs=5e-4)
            assert float(row["tolerance"]) == pytest.approx(max(0.1, 2 * spread), abs=5e-4)
            assert row["runs"] == str(len(runs))


def test_ratios_within_their_tolerance_pass_and_others_end_with_status_1(call, tmp_path, capsys):
    file = tmp_path / "expected.csv"
    call([{"a": 2.0, "b": 1.0}] * 2, "--write", "--repeat", 2, "--expected", file)
    call([{"a": 1.9, "b": 1.09}], "--expected", file)
    assert "| a | 2.00 | 10% | 1.90 |  |" in capsys.readouterr().out
    for found, reason in (
        ({"a": 1.7, "b": 1.0}, "a: 1.70 in place of 2.00, tolerance 10%"),
        ({"a": 2.3, "b": 1.0}, "a: 2.30 in place of 2.00"),
        ({"b": 1.0}, "a: not measured"),
        ({"a": 2.0, "b": 1.0, "c": 1.0}, "c: not in the file"),
    ):
        with pytest.raises(SystemExit, match=reason):
            call([found], "--expected", file)


def test_a_missing_file_is_named_with_its_remedy(call, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call([], "--expected", tmp_path / "none.csv")
    assert "none.csv: there is no such file; make one with --write" in capsys.readouterr().err


def test_ratios_are_of_the_best_peer_and_those_of_a_failed_side_are_left_out(bench):
    def row(seconds, peak):
        return {"seconds": seconds, "peak": peak}

    steps = {"segkit": row(2.0, 700), "smp": row(5.0, 770), "smp_channels_last": row(3.0, 900)}
    parts = [{"what": "step", "mode": "float32", "rows": steps}]
    parts += [{"what": "step", "mode": "bf16", "rows": {"segkit": row(1.0, 500)}}]
    parts += [{"what": "images", "rows": {"eager": row(4.0, 1), "prepared": row(3.0, 1), "smp": row(4.5, 1)}}]
    rates = {"segkit": 600, "segkit, linear": 900, "albumentations": 300}
    pairs = [("segkit", "torchvision"), ("segkit, linear", "albumentations")]
    parts += [{"what": "loader", "rates": rates, "compared": pairs}]
    assert bench.ratios(parts) == pytest.approx(
        {
            "training step, float32: segkit to smp": 1.5,
            "training memory, float32: segkit to smp": 1.1,
            "inference, float32: prepared to eager": 4 / 3,
            "inference, float32: segkit to smp": 1.5,
            "loader, decoded: segkit, linear to albumentations": 3,
        }
    )


@pytest.mark.medium
@pytest.mark.skipif(
    not (ROOT / "benchmarks/expected.csv").exists(),
    reason="nothing was written down yet: python benchmarks/bench.py --write, on an idle machine",
)
def test_what_is_committed_has_every_ratio_of_the_sets(bench):
    """Of the names that the code knows, without measuring: a ratio that is new has to be written down."""
    rows = list(csv.DictReader((ROOT / "benchmarks/expected.csv").read_text().splitlines()))
    assert {*rows[0]} == {*bench.COLUMNS}
    one = {"seconds": 1.0, "peak": 1.0}
    ways = dict.fromkeys((*bench.WAYS, "segkit", "smp_channels_last"), one)
    parts = [{"what": "step", "mode": mode, "rows": ways} for mode in ("float32", "bf16")]
    parts += [{"what": "images", "rows": ways}]
    import loader

    parts += [{"what": "loader", "rates": dict.fromkeys(loader.SIDES, 1.0), "compared": loader.COMPARED}]
    assert {row["ratio"] for row in rows} == {*bench.ratios(parts)}
    assert all(float(row["expected"]) > 0 and 0.1 <= float(row["tolerance"]) < 1 for row in rows)
