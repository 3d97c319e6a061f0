"""Slopes of cost against size, and what several processes cost over one."""

import json
import random

import numpy as np
import pytest

from conftest import ROOT, run_command


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import scaling

    return scaling


def test_the_slope_is_the_exponent_that_numpy_fits(scaling):
    draw = random.Random(0)
    for _ in range(50):
        sizes = draw.sample(range(1, 1000), draw.randint(3, 6))
        power, noise = draw.uniform(0, 3), draw.uniform(0, 0.5)
        seconds = [size**power * (1 + noise * draw.random()) for size in sizes]
        expected = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
        assert scaling.slope(sizes, seconds) == pytest.approx(expected)
        exact = scaling.slope(sizes, [3 * size**power for size in sizes])
        assert exact == pytest.approx(power)


def test_sides_of_images_are_counted_as_pixels(scaling):
    assert all(scaling.UNIT[what] in ("pixels", "images", "classes") for what in scaling.SIZES)
    part = {"what": "crop", "unit": "pixels", "seconds": {96: 0.1, 192: 0.4}, "slope": 1.0}
    assert scaling.words(part) == "| crop | 96: 0.100 s, 192: 0.400 s | 1.00 in pixels |"


def test_the_overhead_is_that_of_the_clock_that_was_asked_for(scaling):
    one, two = {"wall": 1.0, "processor": 2.0}, {"wall": 1.1, "processor": 2.5}
    part = {"what": "processes", "crop": 128, "one": one, "two": two}
    assert scaling.words(part | {"clock": "wall"}).endswith("| +10% |")
    assert scaling.words(part | {"clock": "processor"}).endswith("| +25% |")


@pytest.mark.slow
def test_two_processes_and_one_come_to_the_same_loss(tmp_path):
    results = tmp_path / "found.jsonl"
    words = ["--what", "processes", "--rounds", "1", "--results", results]
    run_command("benchmarks/scaling.py", *words)
    found = json.loads(results.read_text())
    assert found["two"]["loss"] == pytest.approx(found["one"]["loss"], rel=1e-2)
