"""Models prepared for inference have the same logits."""

from __future__ import annotations

import copy
import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segkit.cpu import onednn
from segkit.inference import Protocol, fold, prepare
from segkit.models import segmenter

needs_onednn = pytest.mark.skipif(
    not onednn.has_onednn_convolution(), reason="needs the undocumented operators of oneDNN"
)


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


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=needs_onednn)])
@pytest.mark.parametrize("kind", [Awkward, Unpacking])
def test_only_foldable_batch_norms_are_folded(kind, fused):
    torch.manual_seed(1)
    module = kind().eval()
    x = torch.randn(2, 3, 8, 9)
    with torch.no_grad():
        expected = module(x)
        found = fold.fold_batch_norms(copy.deepcopy(module), torch.randn(1, 3, 5, 6))
        if fused:
            onednn.fuse_operations(found)
        torch.testing.assert_close(found(x), expected, rtol=1e-5, atol=1e-5)
    left = [name for name, part in found.named_modules() if isinstance(part, nn.BatchNorm2d)]
    assert left == ["norm", "other"]


def read_view_later(net, x):
    a = net.a(x)
    view = a[:, :2]
    total = net.b(a) + a
    return total + torch.cat([view, view], 1)


def add_in_place(net, x):
    total = x + 1
    total += net.a(x)
    return total * 2


def read_twice(net, x):
    a = net.a(x)
    b = net.b(a)
    return net.relu(b + a) + b


def add_own_input(net, x):
    a = net.a(x)
    return net.relu(net.b(a) + a)


def read_later(net, x):
    a = net.a(x)
    return net.relu(net.b(a) + a) + 2 * a


def return_shortcut(net, x):
    a = net.a(x)
    return torch.cat([net.relu(net.b(a) + a), a], 1)


def share_convolution(net, x):
    a = net.a(x)
    return net.relu(net.c(net.relu(net.b(a) + a)) + net.b(a))


SUMS = {  # forward pass, convolutions that add a tensor, and how many of them overwrite it
    "shortcut is the input": (lambda net, x: net.relu(net.a(x) + x), 1, 0),
    "shortcut is the input of the convolution": (add_own_input, 1, 0),
    "shortcut is read later": (read_later, 1, 0),
    "shortcut is an output": (return_shortcut, 1, 0),
    "view of the shortcut is read later": (read_view_later, 1, 0),
    "convolution is read twice": (read_twice, 0, 0),
    "projection": (lambda net, x: net.relu(net.b(net.a(x)) + net.c(x)), 1, 1),
    "sum in place": (add_in_place, 1, 0),
    "broadcast": (lambda net, x: net.a(x) + net.b(x).mean((2, 3), keepdim=True), 0, 0),
    "scaled": (lambda net, x: torch.add(net.a(x), net.b(x), alpha=3), 0, 0),
    "mean without its dimensions": (lambda net, x: net.a(x) * net.b(x).mean((2, 3))[:, :, None, None], 0, 0),
    "shared convolution": (share_convolution, 1, 1),
}


class Sums(nn.Module):
    """Three convolutions with a given forward pass."""

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.run(self, x)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", SUMS)
def test_fused_sums_are_equal_and_keep_what_is_read_later(kind, dtype):
    torch.manual_seed(0)
    run, *counts = SUMS[kind]
    module = Sums(run).eval()
    fused = fold.fold_batch_norms(copy.deepcopy(module), torch.randn(1, 4, 5, 6))
    onednn.fuse_operations(fused)
    x = torch.randn(2, 4, 9, 7).contiguous(memory_format=torch.channels_last)
    near = x.clone().to(dtype)
    with torch.inference_mode():
        found = fused.to(dtype)(near)
        assert relative(found.float(), module(x)) < (1e-5 if dtype == torch.float32 else 0.03)
    assert torch.equal(near, x.to(dtype)), "the input was changed"
    adding = [node for node in fused.graph.nodes if node.op == "call_module" and len(node.args) == 2]
    overwriting = [node for node in adding if fused.get_submodule(node.target).can_overwrite]
    assert [len(adding), len(overwriting)] == counts


@needs_onednn
@pytest.mark.parametrize(
    "backbone", [{"name": "resnest", "variant": "14"}, {"name": "resnet", "variant": "50"}]
)
def test_every_block_of_a_prepared_network_adds_its_shortcut(backbone):
    backbone = {**backbone, "width": 16, "blocks": [1, 1, 1, 1]}
    fast = prepare(segmenter.build(3, backbone=backbone, head={"name": "fcn"}), precision="bf16")
    adding = [node for node in fast.backbone.graph.nodes if node.op == "call_module" and len(node.args) == 2]
    assert len(adding) == 4
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    before = image.clone()
    with torch.inference_mode():
        first, again = (fast(fast.normalize(image).bfloat16()).main for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(image, before)


class Deciding(Awkward):
    def forward(self, x):
        return super().forward(x if x.mean() > 0 else -x)


def test_untraceable_module_is_returned_unchanged():
    module = Deciding().eval()
    assert fold.fold_batch_norms(module, torch.randn(1, 3, 5, 6)) is module


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
