"""Policies, losses and averages against their formulas."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from segkit.config import registry
from segkit.models import segmenter
from segkit.training import freezing, parameter_groups


def test_poly_matches_formula():
    factor = registry.build("training.lr_schedules", {"name": "poly", "power": 0.9, "final": 0.01}, total=100)
    assert factor(0) == pytest.approx(1.0)
    assert factor(50) == pytest.approx(0.99 * 0.5**0.9 + 0.01)
    assert factor(100) == pytest.approx(0.01)


def test_overlap_warmup_multiplies_the_decay():
    factor = registry.build("training.lr_schedules", {"name": "cosine", "warmup_iterations": 3}, total=100)
    decay = [(1 + math.cos(math.pi * t / 100)) / 2 for t in range(5)]
    assert [factor(t) for t in range(5)] == pytest.approx(
        [decay[0] / 4, decay[1] / 2, decay[2] * 3 / 4, decay[3], decay[4]]
    )


class Published:
    """The rate as PyTorch-Encoding's scheduler computes it, transcribed."""

    def __init__(self, mode, total, warmup):
        self.mode, self.warmup_iters, self.total_iters = mode, warmup, total - warmup

    def __call__(self, t):
        if self.warmup_iters > 0 and t < self.warmup_iters:
            return 1.0 * t / self.warmup_iters
        t = t - self.warmup_iters
        if self.mode == "cosine":
            return 0.5 * (1 + math.cos(1.0 * t / self.total_iters * math.pi))
        return pow((1 - 1.0 * t / self.total_iters), 0.9)


@pytest.mark.parametrize("mode", ["poly", "cosine"])
def test_encoding_warmup_equals_original_scheduler(mode):
    settings = {"name": mode, "warmup_iterations": 200, "warmup": "encoding"}
    factor, published = (
        registry.build("training.lr_schedules", settings, total=1000),
        Published(mode, 1000, 200),
    )
    assert [factor(t) for t in range(1000)] == pytest.approx([published(t) for t in range(1000)], abs=1e-15)
    assert factor(199) == 0.995
    if mode == "poly":
        assert factor(600) == pytest.approx(0.536, abs=5e-4)


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


@pytest.mark.parametrize("rise", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("total", [1, 2, 3, 100])
def test_short_one_cycle_stays_in_range(total, rise):
    factor = registry.build("training.lr_schedules", {"name": "one_cycle", "rise": rise}, total=total)
    assert all(0 <= factor(t) <= 1 for t in range(total))


def test_milestone_after_the_end_is_rejected():
    with pytest.raises(
        ValueError, match=r"milestones=\[5, 10\]: must be before the end of the training, 10 iterations"
    ):
        registry.build("training.lr_schedules", {"name": "step", "milestones": [5, 10]}, total=10)


@pytest.mark.parametrize("name", ["poly", "cosine", "constant"])
def test_warmup_must_be_shorter_than_training(name):
    with pytest.raises(ValueError, match=r"schedule.lr_schedule.warmup_iterations=10: must be below the 10"):
        registry.build("training.lr_schedules", {"name": name, "warmup_iterations": 10}, total=10)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)


def test_parameter_groups_have_rates_and_decay():
    groups = parameter_groups.parameter_groups(
        Tiny(), lr=0.1, head_lr_multiplier=10, decay_norm_and_bias=False
    )
    rates = {
        group["name"]: (group["lr"], len(group["params"]), group.get("weight_decay")) for group in groups
    }
    assert rates == {
        "backbone": (0.1, 1, None),
        "backbone_no_decay": (0.1, 3, 0.0),
        "head": (1.0, 1, None),
        "head_no_decay": (1.0, 1, 0.0),
    }


@pytest.mark.parametrize("stages", range(5))
@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("decays", [False, True])
def test_parameter_groups_omit_frozen_parameters(stages, norms, decays):
    backbone = {"name": "resnest", "variant": "14", "width": 4}
    model = segmenter.build(2, backbone=backbone, head={"name": "fcn"})
    freezing.freeze(model, stages=stages, norms=norms)
    groups = parameter_groups.parameter_groups(
        model, lr=1.0, head_lr_multiplier=1.0, decay_norm_and_bias=decays, layer_decay=0.5
    )
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    rates = {group["name"].removesuffix("_no_decay"): group["lr"] for group in groups}
    assert rates == {"head": 1.0} | {f"backbone_{k}": 0.5 ** (4 - k) for k in range(stages + 1, 5)}


def test_ema_matches_recurrence():
    model = nn.BatchNorm1d(1)
    average = parameter_groups.make_ema(model)
    expected = 1.0
    for iteration, weight in enumerate([2.0, 5.0, -1.0]):
        nn.init.constant_(model.weight, weight)
        parameter_groups.update_ema(average, model, decay=0.25, iteration=iteration)
        decay = min(0.25, (1 + iteration) / (10 + iteration))
        expected = decay * expected + (1 - decay) * weight
    assert float(average.weight) == pytest.approx(expected)
    assert not average.weight.requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "sgd", "nesterov": True, "momentum": 0.0}, r"nesterov=true with .*momentum=0"),
        ({"name": "adamw", "betas": [0.9, 1.0]}, r"optimizer.betas=\[0.9, 1.0\]: both must be below 1"),
    ],
)
def test_invalid_optimizer_settings_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        registry.build("training.optimizers", settings, groups=[{"params": [torch.zeros(1)]}], lr=0.1)


KINDS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
    "adamw": (torch.optim.AdamW, {"betas": (0.8, 0.95), "weight_decay": 0.1}),
}


@pytest.mark.parametrize("name", [*KINDS])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_optimizer_equals_torch_in_any_memory_layout(name, layout):
    torch.manual_seed(0)
    kind, settings = KINDS[name]
    weights = [torch.randn(size, dtype=torch.float64) for size in [(3, 5, 3, 2), (4, 6, 1, 1), (7,)]]
    theirs = [nn.Parameter(weight.clone()) for weight in weights]
    ours = [nn.Parameter(w.to(memory_format=layout) if w.ndim == 4 else w.clone()) for w in weights]
    expected = kind(theirs, lr=0.1, **settings)
    built = registry.build(
        "training.optimizers", {"name": name, **settings}, groups=[{"params": ours}], lr=0.1
    )
    for _ in range(3):
        for one, other in zip(theirs, ours, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()  # not laid out as a channels-last weight
        expected.step()
        built.step()
    for one, other in zip(theirs, ours, strict=True):
        torch.testing.assert_close(other.data, one.data, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [*KINDS])
def test_optimizer_resumes_with_another_memory_layout(name):
    """The fused kernels go through memory: momenta in another order than the weights would be mixed up."""
    kind, settings = KINDS[name]
    weight = torch.randn(3, 5, 3, 2, dtype=torch.float64)
    gradients = torch.randn(4, *weight.shape, dtype=torch.float64)

    def move_weights(make, layouts):
        state = None
        value = weight
        for place, layout in enumerate(layouts):
            parameter = nn.Parameter(value.contiguous(memory_format=layout))
            optimizer = make([{"params": [parameter]}])
            if state is not None:
                optimizer.load_state_dict(state)
            for gradient in gradients[2 * place : 2 * place + 2]:
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
                optimizer.step()
            state, value = copy.deepcopy(optimizer.state_dict()), parameter.detach()
        return value

    layouts = (torch.channels_last, torch.contiguous_format)
    chosen = {"name": name, **settings}
    ours = move_weights(
        lambda groups: registry.build("training.optimizers", chosen, groups=groups, lr=0.1), layouts
    )
    theirs = move_weights(lambda groups: kind(groups, lr=0.1, **settings), (torch.contiguous_format,) * 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
