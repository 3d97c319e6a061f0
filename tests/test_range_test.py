"""Learning-rate range test: its suggestion against theory, the restored run, and the command."""

import random

import cv2
import numpy as np
import pytest
import torch

from runs import SMALL, start_run
from segkit.models import segmenter
from segkit.training import range_test
from segkit.types import Batch

BACKBONE = {"name": "resnest", "variant": "14", "width": 8}


def run(**schedule):
    torch.manual_seed(0)
    model = segmenter.build(3, backbone=BACKBONE, head={"name": "fcn"})
    return start_run(model, batch_size=2, **schedule)


def steps(count):
    generator = torch.Generator().manual_seed(0)
    for index in range(count):
        image = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=generator)
        yield [Batch(image, (image[:, 0] // 86).clone(), [str(index)] * 2)], 0.0


def descent(curvature, noise, *, count=100):
    """Gradient descent on curvature * x^2 / 2 + 1 with a rate that rises; it diverges above 2 / curvature."""
    draw = random.Random(curvature)
    x, rates, losses = 1.0 / curvature**0.5, [], []
    for rate in np.geomspace(1e-6, 10, count):
        rates.append(float(rate))
        losses.append(curvature * x * x / 2 + 1 + draw.gauss(0, noise))
        x -= rate * curvature * x
        if not abs(x) < 1e3 / curvature**0.5:
            break
    return rates, losses


@pytest.mark.parametrize("seed", range(10))
def test_suggestion_is_below_the_rate_of_divergence(seed):
    draw = random.Random(seed)
    curvature = 10 ** draw.uniform(0, 4)
    result = range_test.analyze_losses(*descent(curvature, noise=draw.choice([0.0, 0.01])))
    assert result.suggestion is not None
    assert 0.001 < result.suggestion * curvature < 2
    assert "falls fastest" in result.reason


def test_no_suggestion_if_the_loss_does_not_fall():
    rates = np.geomspace(1e-6, 10, 100).tolist()
    result = range_test.analyze_losses(rates, [1.0] * 100)
    assert result.suggestion is None
    assert "no rate made the loss fall by 5 %" in result.reason
    assert "not finite from the start" in range_test.analyze_losses(rates, [float("nan")]).reason


def test_smooth_losses_is_a_weighted_mean():
    losses = [3.0, 1.0, 4.0, 1.0, 5.0]
    for count, smooth in enumerate(range_test.smooth_losses(losses), start=1):
        weights = [0.9 ** (count - 1 - i) for i in range(count)]
        assert smooth == pytest.approx(np.average(losses[:count], weights=weights))


def test_range_test_raises_the_rate_until_the_loss_explodes():
    result = range_test.run_range_test(run(iterations=30, optimizer={"name": "adamw"}), steps(30))
    assert result.rates == pytest.approx(np.geomspace(1e-6, 10, 30)[: len(result.rates)].tolist())
    assert all(np.isfinite(result.losses))
    result = range_test.run_range_test(run(iterations=100), steps(100))
    assert len(result.rates) < 100 or result.losses[-1] < 4 * min(result.losses)


def test_steps_that_are_not_finite_are_expected(caplog):
    tested = run(iterations=5)
    next(tested.model.head.parameters()).register_hook(lambda gradient: gradient / 0)
    assert len(range_test.run_range_test(tested, steps(5)).losses) == 5
    assert tested.guard.skipped == 5
    assert not caplog.text


@pytest.mark.medium
def test_lr_finder_writes_a_curve_and_no_run(tmp_path, run_here, capsys):
    small = [*SMALL, "schedule.iterations=40", f"run_dir={tmp_path}", "run_name=a"]
    assert run_here("train_seg", *small, "lr_finder=true") == 0
    output = capsys.readouterr().out
    file = tmp_path / "a" / "lr_finder.png"
    assert f"curve: {file}" in output
    assert cv2.imread(str(file)).std() > 5
    assert not list((tmp_path / "a").glob("*.pt"))
    assert run_here("train_seg", *small, "schedule.iterations=2") == 0
