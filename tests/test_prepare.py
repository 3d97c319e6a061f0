"""Models prepared for inference have the same logits."""

from __future__ import annotations

import copy
import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segkit.inference import Protocol, fold, prepare
from segkit.models import segmenter


@pytest.fixture(scope="module")
def model():
    """A small real network whose batch norms have seen something."""
    torch.manual_seed(0)
    built = segmenter.build(
        7,
        backbone={"name": "resnest", "variant": "14", "width": 16},
        head={"name": "deeplabv3", "width": 32},
        auxiliary={"name": "fcn"},
    )
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return built.eval()


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 3, 81, 50)])
def test_prepared_model_has_equal_logits(model, shape):
    image = torch.randint(0, 256, shape, dtype=torch.uint8)
    fast = prepare(model)
    with torch.inference_mode():
        assert relative(fast(image).main, model(image).main) < 1e-5
    norms = [name for name, module in fast.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == [], "every batch norm of this network follows a convolution"


def test_folding_is_exact_in_float64(model):
    image = torch.rand(2, 3, 65, 49, dtype=torch.float64)
    double = copy.deepcopy(model).double()
    with torch.inference_mode():
        torch.testing.assert_close(prepare(double)(image).main, double(image).main, rtol=1e-10, atol=1e-10)


def test_bf16_logits_are_close_and_normalization_exact(model):
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    fast = prepare(model, precision="bf16")
    with torch.inference_mode():
        exact, near = model(image).main, fast(fast.normalize(image).bfloat16()).main
    assert near.dtype == torch.bfloat16
    assert relative(near, exact) < 0.05
    assert torch.equal(fast.mean, model.mean)


def test_prepare_does_not_change_the_model(model):
    names = [name for name, _ in model.named_modules()]
    before = copy.deepcopy(model.state_dict())
    prepare(model, precision="bf16")
    assert [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Awkward(nn.Module):
    """Shares a convolution, normalizes a sum: what must not be folded."""

    def __init__(self):
        super().__init__()
        self.shared, self.norm, self.other = (
            nn.Conv2d(3, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.BatchNorm2d(3),
        )
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        for norm in (self.norm, self.other, self.inner[1]):
            nn.init.uniform_(norm.running_var, 0.2, 3)
            nn.init.uniform_(norm.running_mean, -1, 1)

    def forward(self, x):
        y = self.norm(self.shared(x))
        z = self.other(self.shared(y) + x)
        return self.inner(z)


class Unpacking(Awkward):
    def forward(self, x):
        height, width = x.shape[2:]
        return super().forward(F.pad(x, (0, width, 0, height)))


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("kind", [Awkward, Unpacking])
def test_only_foldable_batch_norms_are_folded(kind, onednn):
    torch.manual_seed(1)
    module = kind().eval()
    x = torch.randn(2, 3, 8, 9)
    with torch.no_grad():
        expected = module(x)
        found = fold.fold_batch_norms(
            copy.deepcopy(module), torch.randn(1, 3, 5, 6), onednn=onednn and fold.has_onednn_convolution()
        )
        torch.testing.assert_close(found(x), expected, rtol=1e-5, atol=1e-5)
    left = [name for name, part in found.named_modules() if isinstance(part, nn.BatchNorm2d)]
    assert left == ["norm", "other"]


class Deciding(Awkward):
    def forward(self, x):
        return super().forward(x if x.mean() > 0 else -x)


def test_untraceable_module_is_returned_unchanged():
    module = Deciding().eval()
    assert fold.fold_batch_norms(module, torch.randn(1, 3, 5, 6), onednn=False) is module


def test_folding_that_changes_logits_is_undone(model, monkeypatch, caplog):
    monkeypatch.setattr(fold, "fuse_conv_bn_eval", lambda conv, _: conv)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(prepare(model)(image).main, model(image).main, atol=1e-4)
    assert "folding batch norms changed the logits" in caplog.text


@pytest.mark.parametrize("has_units", [True, False])
def test_precision_auto_is_bf16_with_hardware_support(model, has_units, monkeypatch, caplog):
    module = importlib.import_module("segkit.inference.protocol")
    monkeypatch.setattr(module, "supports_bf16", lambda _: has_units)
    monkeypatch.setattr(
        importlib.import_module("segkit.inference.preparation"), "supports_bf16", lambda _: has_units
    )
    expected = torch.bfloat16 if has_units else torch.float32
    assert next(prepare(model, precision="auto").parameters()).dtype == expected
    how = Protocol(precision="auto").resolve_precision(torch.device("cpu"))
    assert how.precision == ("bf16" if has_units else "float32")
    assert not caplog.text


def test_slow_bf16_is_warned_about_once(model, monkeypatch, caplog):
    module = importlib.import_module("segkit.inference.preparation")
    monkeypatch.setattr(module, "supports_bf16", lambda _: False)
    module._warn_slow_bf16.cache_clear()
    for _ in range(2):
        prepare(model, precision="bf16")
    assert caplog.text.count("this cpu has no bf16 units; float32 is several times faster") == 1
