"""The rate finder: its suggestion against theory, a run it leaves alone, and the command."""

import copy
import random

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segkit import training
from segkit.losses import cross_entropy
from segkit.models import segmenter
from segkit.training import range_test
from segkit.types import Batch

BACKBONE = {"name": "resnest", "variant": "14", "width": 8}


def begin(**schedule):
    torch.manual_seed(0)
    rule = {"optimizer": {"name": "adamw"}, "lr_schedule": {"name": "poly"}, "iterations": 30, "ema": 0.9}
    return training.setup_training(
        segmenter.build(3, backbone=BACKBONE, head={"name": "fcn"}),
        cross_entropy.build(3),
        samples=8,
        schedule=training.Schedule(**{"lr": 0.01, "batch_size": 2, **rule, **schedule}),
        runtime=training.Runtime(),
        device=torch.device("cpu"),
        seed=1,
    )


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


@pytest.mark.parametrize("seed", range(20))
def test_the_suggestion_is_below_where_descent_diverges_and_not_far_below(seed):
    draw = random.Random(seed)
    curvature = 10 ** draw.uniform(0, 4)
    found = range_test.analyze_losses(*descent(curvature, noise=draw.choice([0.0, 0.01])))
    assert found.suggestion is not None
    assert 0.001 < found.suggestion * curvature < 2
    assert "falls fastest" in found.reason


def test_where_nothing_is_learnt_nothing_is_suggested():
    rates = np.geomspace(1e-6, 10, 100).tolist()
    found = range_test.analyze_losses(rates, [1.0] * 100)
    assert found.suggestion is None
    assert "no rate made the loss fall by 5 %" in found.reason
    assert "not finite from the start" in range_test.analyze_losses(rates, [float("nan")]).reason


def test_smoothing_is_the_weighted_mean_written_out():
    losses = [3.0, 1.0, 4.0, 1.0, 5.0]
    for count, smooth in enumerate(range_test.smooth_losses(losses), start=1):
        weights = [0.9 ** (count - 1 - i) for i in range(count)]
        assert smooth == pytest.approx(np.average(losses[:count], weights=weights))


@pytest.mark.medium
def test_the_run_is_left_as_it_was_and_the_rates_are_those_it_says():
    tested, untouched = begin(), begin()
    before = copy.deepcopy(tested.state())
    found = range_test.run_range_test(tested, steps(30))
    assert found.rates == pytest.approx(np.geomspace(1e-6, 10, 30)[: len(found.rates)].tolist())
    assert all(np.isfinite(found.losses))
    after = tested.state()
    assert all(torch.equal(before["model"][name], after["model"][name]) for name in before["model"])
    assert after["optimizer"]["state"] == {}
    assert after["iteration"] == 0
    for run in (tested, untouched):
        training.train_step(run, next(steps(1))[0])
    for a, b in zip(tested.model.parameters(), untouched.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert tested.ema_model is not None
    assert untouched.ema_model is not None
    for a, b in zip(tested.ema_model.parameters(), untouched.ema_model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.medium
def test_it_ends_where_the_loss_explodes():
    found = range_test.run_range_test(begin(optimizer={"name": "sgd"}, iterations=100), steps(100))
    assert len(found.rates) < 100 or found.losses[-1] < 4 * min(found.losses)


@pytest.mark.slow
def test_the_command_leaves_a_curve_and_the_name_free_for_the_training(tmp_path, run_here, capsys):
    small = [
        "experiment=demo",
        "data.size=32",
        "data.val_scenes=2",
        "model.backbone.width=8",
        "model.head.width=8",
    ]
    small += ["schedule.iterations=40", "schedule.batch_size=2", "loader.workers=0", f"run_dir={tmp_path}"]
    assert run_here("train_seg", *small, "lr_finder=true", "run_name=a") == 0
    said = capsys.readouterr().out
    place = tmp_path / "a" / "lr_finder"
    assert f"the curve is in {place}/lr_finder.png" in said
    drawn = cv2.imread(str(place / "lr_finder.png"))
    assert drawn is not None
    assert drawn.std() > 5
    events = EventAccumulator(str(place)).Reload()
    assert {"lr_finder/lr", "lr_finder/loss"} <= set(events.Tags()["scalars"])
    assert "lr_finder/curve" in events.Tags()["images"]
    assert not list((tmp_path / "a").glob("*.pt"))
    assert run_here("train_seg", *small, "schedule.iterations=2", "run_name=a",
                    "schedule.lr_schedule.warmup_iterations=0") == 0  # fmt: skip
