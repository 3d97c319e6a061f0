"""Measurements whose sides take turns: every side gets every round, and a broken one stops nobody."""

import json
import random
import statistics
import sys

import pytest

from conftest import ROOT, run_command

SIDE = """
import sys, time
sys.path.insert(0, {benchmarks!r})
import turns
name, log = sys.argv[1:]
def build():
    if name == "unbuilt":
        raise ValueError("no such network")
    print("a library that talks")
    held = []
    def work(line):
        with open(log, "a") as file:
            file.write(f"{{name}} {{line}}\\n")
        if name == "broken" and line != "warm":
            raise ValueError("out of luck")
        if name == "large":
            held.append(bytearray(b"x") * (40 << 20))
        return {{"said": line}}
    return work
turns.serve(build, clock="wall")
"""


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return ROOT / "benchmarks"


@pytest.fixture
def measured(benchmarks, tmp_path, capfd):
    """``measured(names, most=..., minutes=...)``: the answers, the order of the calls, what was told."""
    import turns

    script, log = tmp_path / "side.py", tmp_path / "log"
    script.write_text(SIDE.format(benchmarks=str(benchmarks)))

    def run(names, *, alone=False, **bounds):
        commands = {name: [str(script), name, str(log)] for name in names}
        bounds |= {"warm": ["warm"], "what": "go"}
        if alone:
            found = turns.alone(commands, threads=1, **bounds)
        else:
            with turns.started(commands, threads=1) as sides:
                found = turns.rounds(sides, **bounds)
        return found, [line.split() for line in log.read_text().splitlines()], capfd.readouterr().err

    return run


def test_every_side_works_once_a_round_and_never_always_after_the_same_one(measured):
    found, calls, _ = measured(["a", "b", "c"], most=3, minutes=9)
    assert {name: len(answers) for name, answers in found.items()} == {"a": 3, "b": 3, "c": 3}
    assert [line for _, line in calls] == ["warm"] * 3 + ["go"] * 9
    order = [name for name, _ in calls]
    counted = [order[start : start + 3] for start in range(3, 12, 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in counted)
    assert {names[0] for names in counted} == {"a", "b", "c"}


def test_sides_that_start_anew_each_round_are_warmed_each_time(measured):
    found, calls, told = measured(["a", "broken", "b"], alone=True, most=2, minutes=9)
    assert {name: len(answers) for name, answers in found.items()} == {"a": 2, "b": 2}
    assert calls[:2] == [["a", "warm"], ["a", "go"]]
    assert [name for name, line in calls if line == "go"] == ["a", "broken", "b", "a", "b"]
    assert "broken: ended with 1: ValueError: out of luck" in told


def test_sides_that_fail_are_named_with_their_reason_and_the_others_go_on(measured):
    found, _, told = measured(["a", "unbuilt", "broken", "b"], most=2, minutes=9)
    assert {name: len(answers) for name, answers in found.items()} == {"a": 2, "b": 2}
    assert "unbuilt: ended with 1: ValueError: no such network" in told
    assert "broken: ended with 1: ValueError: out of luck" in told


def test_the_minutes_bound_the_rounds_and_one_is_always_counted(measured):
    found, _, told = measured(["a", "b"], most=50, minutes=0)
    assert {name: len(answers) for name, answers in found.items()} == {"a": 1, "b": 1}
    assert "1 rounds fitted into 0 minutes" in told


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from Linux's /proc")
def test_a_peak_is_that_of_the_side_alone(measured):
    found, _, _ = measured(["large", "b"], most=2, minutes=9)
    grown = {name: answers[-1]["peak"] - answers[-1]["loaded"] for name, answers in found.items()}
    assert 120 <= grown["large"] < 140  # 40 MiB in each of three calls
    assert grown["b"] < 10


def test_medians_are_those_of_the_standard_library(benchmarks):
    import turns

    draw = random.Random(0)
    for rounds in range(1, 8):
        answers = [{"seconds": draw.random(), "peak": draw.random(), "loss": i} for i in range(rounds)]
        row = turns.medians({"a": answers})["a"]
        seconds = [answer["seconds"] for answer in answers]
        assert row["seconds"] == statistics.median(seconds)
        assert (row["fastest"], row["slowest"]) == (min(seconds), max(seconds))
        assert (row["rounds"], row["loss"]) == (rounds, rounds - 1)
        assert row["peak"] == max(answer["peak"] for answer in answers)


def given(**changes):
    from argparse import Namespace

    plain = {
        "variant": "14",
        "batch": 8,
        "crop": 48,
        "classes": 7,
        "seed": 3,
        "auxiliary": False,
        "device": "cpu",
    }
    return Namespace(**(plain | changes))


@pytest.mark.parametrize(
    ("mode", "auxiliary"), [("float32", False), ("checkpoint", True), ("everything_kept", False)]
)
def test_segkit_and_the_published_step_learn_the_same(benchmarks, monkeypatch, mode, auxiliary):
    """What is timed against each other is the same work: losses of three steps agree.

    Eight images, because normalising few values, as after global pooling, makes much of rounding.
    """
    import train_sides
    from torch import nn

    def network(given, build=train_sides.network):
        model = build(given)
        for module in model.modules():
            if isinstance(module, nn.Dropout | nn.Dropout2d):
                module.p = 0.0  # its masks are drawn from other generators
        return model

    monkeypatch.setattr(train_sides, "network", network)
    what = given(auxiliary=auxiliary)
    batch = train_sides.noise(what)
    ours, theirs = (train_sides.step_of(what, *way) for way in (("segkit", mode), ("published", "float32")))
    for _ in range(3):
        assert ours(*batch) == pytest.approx(theirs(*batch), rel=1e-3)


def test_a_gpu_is_waited_for_before_and_after_what_is_timed(benchmarks, monkeypatch, capfd):
    """There is none here: PyTorch's calls are stood in for, and only their order is seen."""
    import io
    import os

    import torch
    import turns

    called = []
    for name, gives in [("synchronize", None), ("empty_cache", None), ("reset_peak_memory_stats", None)]:
        monkeypatch.setattr(torch.cuda, name, lambda name=name, gives=gives: called.append(name))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 3 << 20)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5 << 20)
    monkeypatch.setattr(sys, "stdin", io.StringIO("go\n"))
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    turns.serve(lambda: lambda line: called.append(line), clock="wall", device="cuda")
    assert called == ["empty_cache", "reset_peak_memory_stats", "synchronize", "go", "synchronize"]
    answer = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (answer["loaded"], answer["peak"]) == (3, 5)


def test_the_mode_of_a_gpu_is_what_runtime_gpu_is(benchmarks, monkeypatch):
    import torch
    import train_sides
    from hydra import compose, initialize_config_dir

    from segkit import training
    from segkit.compose import VERSION_BASE

    seen = {}
    monkeypatch.setattr(torch, "compile", lambda runner: runner)
    monkeypatch.setattr(training, "begin", lambda *_, **settings: seen.update(settings))
    train_sides.segkit_step(given(), "gpu")
    with initialize_config_dir(str(ROOT / "conf" / "runtime"), **VERSION_BASE):
        expected = compose("gpu")
    for name in ("precision", "compile", "channels_last", "recompute"):
        assert getattr(seen["runtime"], name) == expected[name]


def part(rows):
    ceiling = {"float32": 200.0, "bf16": 400.0}
    top = {"all": ceiling, "alone": ceiling, "beside": ceiling}
    about = {"variant": "50", "batch": 4, "crop": 96, "mode": "bf16", "clock": "wall", "machine": "m"}
    return about | {"what": "step", "gflop": 100.0, "ceilings": top, "rows": rows}


def test_the_table_compares_with_the_better_layout_of_smp(benchmarks, tmp_path, capsys):
    import train_step

    def row(seconds, peak):
        return {"seconds": seconds, "fastest": seconds, "slowest": seconds, "peak": peak, "rounds": 1}

    rows = {"segkit": row(0.5, 700), "smp": row(1.0, 900), "smp_channels_last": row(0.8, 1000)}
    page = train_step.step_table(part(rows))
    assert "| segkit | 0.50 (0.50 to 0.50) | 8.00 | 50% | 700 | 1 |" in page
    assert "segkit is 1.60x as fast as smp's best, with 78% of its least memory" in page


def test_losses_are_compared_in_deviations_of_both_sides(benchmarks):
    import train_step

    rows = {"segkit float32": [1.0, 1.2, 1.1], "smp float32": [1.4, 1.6, 1.8]}
    about = {"variant": "50", "batch": 4, "crop": 96, "steps": 50, "rows": rows}
    expected = (1.6 - 1.1) / (0.1**2 + 0.2**2) ** 0.5
    assert f"| smp float32 | 1.6000 | 0.2000 | {expected:+.1f} |" in train_step.loss_table(about)


@pytest.mark.slow
def test_the_command_measures_and_prints_its_results_again(tmp_path):
    results = tmp_path / "found.jsonl"
    sizes = ["--variant", "14", "--crop", "32", "--threads", "1", "--results", results]
    sides = ["--sides", "segkit", "published", "--modes", "float32"]
    first = run_command("benchmarks/train_step.py", *sizes, *sides, "--rounds", "1").stdout
    run_command("benchmarks/train_step.py", "losses", *sizes, *sides, "--steps", "10", "--seeds", "2")
    steps, losses = (json.loads(line) for line in results.read_text().splitlines())
    assert {*steps["rows"]} == {"segkit", "published"}
    assert {name: len(found) for name, found in losses["rows"].items()} == {
        "segkit float32": 2,
        "published float32": 2,
    }
    assert run_command("benchmarks/train_step.py", "table", "--results", results).stdout.startswith(first)
