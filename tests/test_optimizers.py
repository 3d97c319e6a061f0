"""Policies, losses and averages against their formulas."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from segkit.config import registry
from segkit.training import parameter_groups


def test_poly_ends_at_its_final_factor():
    factor = registry.build("training.lr_schedules", {"name": "poly", "power": 0.9, "final": 0.01}, total=100)
    assert [factor(t) for t in (0, 50, 100)] == pytest.approx([1.0, 0.99 * 0.5**0.9 + 0.01, 0.01])


def test_overlap_warmup_multiplies_the_decay():
    factor = registry.build("training.lr_schedules", {"name": "cosine", "warmup_iterations": 3}, total=100)
    decay = [(1 + math.cos(math.pi * t / 100)) / 2 for t in range(5)]
    assert [factor(t) for t in range(5)] == pytest.approx(
        [decay[0] / 4, decay[1] / 2, decay[2] * 3 / 4, decay[3], decay[4]]
    )


@pytest.mark.parametrize("mode", ["poly", "cosine"])
def test_encoding_warmup_equals_original_scheduler(mode):
    settings = {"name": mode, "warmup_iterations": 200, "warmup": "encoding"}
    factor = registry.build("training.lr_schedules", settings, total=1000)

    def original_factor(t):  # PyTorch-Encoding's scheduler, transcribed
        if t < 200:
            return 1.0 * t / 200
        t = t - 200
        if mode == "cosine":
            return 0.5 * (1 + math.cos(1.0 * t / 800 * math.pi))
        return pow((1 - 1.0 * t / 800), 0.9)

    assert [factor(t) for t in range(1000)] == pytest.approx(
        [original_factor(t) for t in range(1000)], abs=1e-15
    )


def list_rates(scheduler, steps):
    """The rates that a scheduler of torch gives an optimizer whose own rate is 1."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule, rates = scheduler(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def warm(total, warmup, then):
    """Torch's linear warm-up from 1e-6, then another of its schedulers over the rest."""

    def make_scheduler(optimizer):
        rise = schedules.LinearLR(optimizer, 1e-6, total_iters=warmup - 1)
        return schedules.SequentialLR(optimizer, [rise, then(optimizer, total - warmup)], [warmup])

    return make_scheduler


POLICIES = {
    "poly": ({"power": 0.9}, lambda o, n: schedules.PolynomialLR(o, n, 0.9)),
    "cosine": ({}, lambda o, n: schedules.CosineAnnealingLR(o, n)),
    "constant": ({}, lambda o, n: schedules.ConstantLR(o, 1.0)),
    "step": (
        {"milestones": [70, 40], "gamma": 0.3},
        lambda o, n: schedules.MultiStepLR(o, [m - (100 - n) for m in (40, 70)], 0.3),
    ),
}


@pytest.mark.parametrize("name", POLICIES)
def test_lr_schedules_equal_torch_schedulers(name):
    settings, theirs = POLICIES[name]
    factor = registry.build("training.lr_schedules", {"name": name, **settings}, total=100)
    assert [factor(t) for t in range(100)] == pytest.approx(list_rates(lambda o: theirs(o, 100), 100))
    settings = {"name": name, **settings, "warmup_iterations": 20, "warmup": "mmseg"}
    factor = registry.build("training.lr_schedules", settings, total=100)
    assert [factor(t) for t in range(100)] == pytest.approx(list_rates(warm(100, 20, theirs), 100))


@pytest.mark.parametrize(("total", "rise"), [(100, 0.3), (37, 0.25), (10, 0.9)])
def test_one_cycle_equals_torch(total, rise):
    factor = registry.build("training.lr_schedules", {"name": "one_cycle", "rise": rise}, total=total)
    theirs = list_rates(lambda o: schedules.OneCycleLR(o, 1.0, total, pct_start=rise), total - 1)
    assert [factor(t) for t in range(total - 1)] == pytest.approx(theirs, abs=1e-12)
    assert factor(total - 1) == pytest.approx(4e-6)


def test_short_one_cycle_stays_in_range():
    for total in (1, 2, 3, 100):
        for rise in (0.0, 0.01, 0.5, 1.0):
            factor = registry.build("training.lr_schedules", {"name": "one_cycle", "rise": rise}, total=total)
            assert all(0 <= factor(t) <= 1 for t in range(total))


@pytest.mark.parametrize(
    "settings", [{"name": "poly", "warmup_iterations": 10}, {"name": "step", "milestones": [5, 10]}]
)
def test_warmup_and_milestones_must_be_within_the_training(settings):
    with pytest.raises(
        ValueError, match=r"schedule\.lr_schedule\.\w+=.*10.*: must be below the 10 iterations"
    ):
        registry.build("training.lr_schedules", settings, total=10)


def test_nesterov_without_momentum_is_refused():
    settings = {"name": "sgd", "nesterov": True, "momentum": 0.0}
    with pytest.raises(ValueError, match=r"schedule\.optimizer\.momentum=0: must be above 0"):
        registry.build("training.optimizers", settings, groups=[{"params": [torch.zeros(1)]}], lr=0.1)


def test_ema_matches_recurrence():
    model = nn.BatchNorm1d(1)
    average = copy.deepcopy(model).requires_grad_(requires_grad=False)
    expected = 1.0
    for iteration, weight in enumerate([2.0, 5.0, -1.0]):
        nn.init.constant_(model.weight, weight)
        parameter_groups.update_ema(average, model, decay=0.25, iteration=iteration)
        decay = min(0.25, (1 + iteration) / (10 + iteration))
        expected = decay * expected + (1 - decay) * weight
    assert float(average.weight) == pytest.approx(expected)


KINDS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
    "adamw": (torch.optim.AdamW, {"betas": (0.8, 0.95), "weight_decay": 0.1}),
}
CONTIGUOUS, LAST = torch.contiguous_format, torch.channels_last


def move_weights(make_optimizer, layouts):
    """Take two steps in each memory layout, resuming between them; return the weights."""
    draw = torch.Generator().manual_seed(0)
    values = [torch.randn(size, dtype=torch.float64, generator=draw) for size in ((3, 5, 3, 2), (4, 6, 1, 1))]
    state = None
    for layout in layouts:
        parameters = [nn.Parameter(value.contiguous(memory_format=layout)) for value in values]
        optimizer = make_optimizer([{"params": parameters}])
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(2):
            for parameter in parameters:  # the gradient is not laid out as a channels-last weight
                parameter.grad = torch.randn(parameter.shape, dtype=torch.float64, generator=draw)
            optimizer.step()
        state, values = copy.deepcopy(optimizer.state_dict()), [p.detach() for p in parameters]
    return values


@pytest.mark.parametrize("name", [*KINDS])
@pytest.mark.parametrize("layouts", [(CONTIGUOUS, CONTIGUOUS), (LAST, CONTIGUOUS), (CONTIGUOUS, LAST)])
def test_optimizer_equals_torch_in_any_memory_layout(name, layouts):
    """The fused kernels go through memory: momenta in another order than the weights would be mixed up."""
    kind, settings = KINDS[name]
    chosen = {"name": name, **settings}
    ours = move_weights(
        lambda groups: registry.build("training.optimizers", chosen, groups=groups, lr=0.1), layouts
    )
    theirs = move_weights(lambda groups: kind(groups, lr=0.1, **settings), (CONTIGUOUS, CONTIGUOUS))
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)
