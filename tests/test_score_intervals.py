"""Bootstrap intervals: scores equal those of the metrics, and intervals cover the true score."""

import json

import numpy as np
import pytest

from segkit.evaluation import intervals, metrics


def test_resamples_equal_a_loop():
    counts = np.random.default_rng(0).integers(0, 9, (7, 3, 4))
    weights = np.random.default_rng(0).multinomial(7, np.full(7, 1 / 7), intervals.RESAMPLES)
    expected = [sum(n * image for n, image in zip(row, counts, strict=True)) for row in weights]
    np.testing.assert_array_equal(intervals.resample_images(counts), expected)


def test_an_undefined_score_has_no_interval():
    assert np.isnan(intervals.find_bounds(np.full(9, np.nan), 5)).all()
    assert np.isnan(intervals.find_bounds(np.ones(9), 1)).all()
    assert intervals.find_bounds(np.array([1, 1, np.nan]), 5) == (1, 1)


def find_intervals(counts, absent):
    """Return the interval of each score of the counts (N, 3, K) of images."""
    scores = metrics.score_pixels(intervals.resample_images(counts), absent=absent)
    return {name: intervals.find_bounds(values, len(counts)) for name, values in scores.items()}


def simulate(generator, images, classes=12, pixels=20_000):
    """Counts of images whose class shares and qualities vary, as those of a data set do."""
    concentration = 0.5 * np.linspace(0.3, 2, classes)
    labeled = np.rint(generator.dirichlet(concentration, images) * pixels)
    quality = generator.beta(6, 2, (images, 1)) * generator.beta(12, 2, (images, classes))
    hit = np.rint(labeled * quality)
    wrong = generator.dirichlet(np.full(classes, 0.5), images) * (labeled - hit).sum(1, keepdims=True)
    return np.stack([hit, labeled, hit + np.rint(wrong)], axis=1)


@pytest.mark.medium
def test_intervals_cover_the_true_score():
    truth = metrics.score_pixels(simulate(np.random.default_rng(0), 50_000).sum(0), absent="exclude")
    is_covered = []
    for seed in range(500):
        counts = simulate(np.random.default_rng([2, seed]), 200)
        bounds = find_intervals(counts, "exclude")
        is_covered.append([bounds[name].low <= truth[name] <= bounds[name].high for name in truth])
    coverage = dict(zip(truth, np.mean(is_covered, 0), strict=True))
    assert all(0.93 <= share <= 0.97 for share in coverage.values()), coverage


@pytest.mark.medium
def test_evaluation_counts_each_image_once(tiny_run, tmp_path, run_here, capsys):
    stored = []
    for output in ("whole", "repeated"):
        words = f"checkpoint={tiny_run}/best.pt", f"output={tmp_path / output}", "loader.workers=0"
        assert run_here("test_seg", *words, "evaluation.evaluators.boundary=true") == 0
        stored.append(np.load(tmp_path / output / "image_counts.npz")["counts"])
    confusion = np.loadtxt(tmp_path / "whole/confusion.csv", delimiter=",", skiprows=1, usecols=range(1, 11))
    assert (stored[0].sum(0) == metrics.count_pixels(confusion)).all()
    assert (stored[0] == stored[1]).all()
    assert stored[0].shape == (6, 3, 10)
    result = json.loads((tmp_path / "whole/result.json").read_text())
    scores = find_intervals(stored[0], result["protocol"]["absent"])
    low, high = result["intervals"].pop("mIoU_boundary")  # of an evaluator with small states
    assert f"({100 * low:.2f} to {100 * high:.2f})" in capsys.readouterr().out
    for name, (low, high) in result["intervals"].items():
        assert (low, high) == pytest.approx(scores[name], rel=1e-12)
        assert low <= result["scores"][name] <= high
