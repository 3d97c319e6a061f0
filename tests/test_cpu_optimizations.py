"""CPU optimizations: less is kept for the backward pass, and results differ in rounding only."""

import contextlib
import copy
import gc
import random
import weakref

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from segkit.cpu import conv3x3, optimize_for_cpu, recompute
from segkit.cpu.blocks import FastSplitAttention, global_mean, weighted_splits
from segkit.cpu.conv3x3 import FastConv3x3, is_replaceable, share_inside
from segkit.cpu.recompute import Recipe, RecipeView, Recompute
from segkit.inference import prepare
from segkit.models import segmenter
from segkit.training.activation_checkpointing import recompute_stages

VARIANTS = {
    "resnest": {"variant": "14", "output_stride": 8},
    "resnest_blocks": {"variant": "26", "output_stride": 16, "drop_block": 0.1},
    "fast": {"variant": "50_fast_2s2x40d", "output_stride": 32},
}


def network(backbone="resnest", head="deeplabv3", width=8, **settings):
    torch.manual_seed(0)
    return segmenter.build(
        5,
        backbone={"name": "resnest", "width": width, **VARIANTS[backbone], **settings},
        head={"name": head},
        auxiliary={"name": "fcn", "stage": 3},
    ).to(memory_format=torch.channels_last)


def with_recompute(model=None):
    """Return the context of a forward pass with recomputation."""
    return Recompute() if model is None else recompute.recompute_context(model)


def run_steps(model, image, *, context, steps=2, dtype=None):
    """Return gradients, weights and batch statistics after some steps."""
    torch.manual_seed(1)
    for _ in range(steps):
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None), context(model):
            found = model(image)
        sum(logits.float().square().mean() for logits in found[:2] if logits is not None).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
    return [*(p.grad for p in model.parameters()), *model.state_dict().values()]


def plain_autograd(model=None):
    """Return the context of a forward pass with plain autograd."""
    return contextlib.nullcontext(model)


@pytest.mark.medium
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize(
    ("backbone", "head", "frozen"),
    [
        ("resnest", "deeplabv3", False),
        ("resnest", "deeplabv3", True),
        ("resnest_blocks", "pspnet", False),
        ("fast", "fcn", False),
    ],
)
def test_recomputed_steps_equal_plain_autograd_bitwise(backbone, head, frozen, dtype):
    image, results = torch.randint(0, 256, (2, 3, 41, 56), dtype=torch.uint8), []
    for context in (plain_autograd, with_recompute):
        model = network(backbone, head)
        for module in model.modules() if frozen else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        results.append(run_steps(model, image, context=context, dtype=dtype))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def stored_bytes(model, image, monkeypatch, *, context):
    """Return the bytes that a forward pass stores, without the parameters."""
    kept = {p.untyped_storage().data_ptr(): None for p in model.parameters()}

    def note(tensor):
        if isinstance(tensor, torch.Tensor):
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    def pack_and_note(self, tensor):
        result = pack(self, tensor)
        note(result.tensor if isinstance(result, recompute.StoredTensor) else result)
        return result

    pack = Recompute.pack
    with monkeypatch.context() as patched, saved_tensors_hooks(note, lambda tensor: tensor):
        patched.setattr(Recompute, "pack", pack_and_note)
        with context(model):
            model(image)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values() if tensor is not None)


@pytest.mark.parametrize("output_stride", [8, 32])
def test_recompute_stores_less_than_60_percent(monkeypatch, output_stride):
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    model = network(variant="50", output_stride=output_stride)
    plain = stored_bytes(model, image, monkeypatch, context=plain_autograd)
    assert stored_bytes(model, image, monkeypatch, context=with_recompute) < 0.6 * plain


def assert_gradients_equal_plain(compute, *modules, dtype=None):
    """Check that recomputation does not change the gradients of modules by a result."""
    found, parameters = [], [p for module in modules for p in module.parameters()]
    for context in (plain_autograd, with_recompute):
        torch.manual_seed(0)  # of dropout
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None), context():
            result = compute()
        found.append(torch.autograd.grad(result.float().square().sum(), parameters))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_changed_tensor_is_stored():
    norm, conv, image = nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1, bias=False), torch.randn(2, 3, 5, 5)

    def change_and_convolve():
        changed = norm(image)
        with torch.no_grad():
            changed.mul_(3.0)
        return conv(changed)

    assert_gradients_equal_plain(change_and_convolve, conv)


class Doubling(nn.BatchNorm2d):
    """Normalizes something else than what it was given."""

    def forward(self, input):
        return super().forward(input * input + input)


@pytest.mark.parametrize("norm", [Doubling(3), BatchNormAct2d(3), BatchNormAct2d(3, apply_act=False)])
def test_custom_normalizations_keep_their_gradients(norm):
    first, last, image = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1), torch.randn(2, 3, 5, 5)
    assert_gradients_equal_plain(lambda: last(norm(first(image))), first, last)


@pytest.mark.medium
def test_long_chain_of_sums_leaks_no_recipes():
    gc.collect()
    before = sum(type(thing) is Recipe for thing in gc.get_objects())
    convs, norm = [nn.Conv2d(4, 4, 1) for _ in range(20)], nn.BatchNorm2d(4)
    image = torch.randn(3, 4, 6, 6)

    def add_repeatedly():
        x = image
        for conv in convs:
            x = (norm(conv(x)) + x).relu()
        return x

    assert_gradients_equal_plain(add_repeatedly, *convs)
    gc.collect()
    assert sum(type(thing) is Recipe for thing in gc.get_objects()) <= before


class Row(nn.Module):
    """Forty residual blocks of one convolution."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(40))
        self.norm, self.relu = nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x):
        for conv in self.convs:
            x = self.relu(self.norm(conv(x)) + x)
        return x


def test_long_stage_stores_few_sums(monkeypatch):
    """Once a result is kept because many build on each other, the next ones can be made again of it."""
    image = torch.randn(8, 4, 64, 64)
    sums = stored_bytes(Row(), image, monkeypatch, context=with_recompute) / (4 * image.numel()) - 40
    assert sums <= 40 // recompute.MAX_DEPTH + 2


class InPlace(nn.Module):
    """A block of a plug-in that changes tensors in place wherever plain autograd allows it."""

    def __init__(self, change):
        super().__init__()
        self.change = change
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norm, self.last = nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)

    def forward(self, image):
        base = self.convs[0](image)
        x = self.norm(self.convs[1](image))
        out = x + base
        if self.change == "source":
            base.mul_(2.0)  # after a sum was made of it
        elif self.change == "source by index":
            base[:, 0] = 0.0
        elif self.change == "source by dropout":
            nn.functional.dropout(base, 0.5, True, True)
        elif self.change == "sum":
            out += base
            out *= 0.5
        elif self.change == "sum with a part":
            out += x[:, :1]
        elif self.change == "half":
            out[:, :1].relu_()
        elif self.change == "norm":
            x.relu_()
        elif self.change == "silu":
            out = nn.functional.silu(out, inplace=True)
        elif self.change == "clamp":
            out.clamp_(min=0.0)
        return self.last(torch.cat([out, x + base], 1)[:, :3]) + self.convs[2](out)[:, :2]


CHANGES = ["source", "source by index", "source by dropout", "sum", "sum with a part", "half", "norm"]
CHANGES += ["silu", "clamp"]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_in_place_changes_keep_plain_gradients(change, dtype):
    model, image = InPlace(change), torch.randn(2, 3, 5, 5)
    assert_gradients_equal_plain(lambda: model(image), model, dtype=dtype)


@pytest.mark.parametrize("which", ["input", "output", "source"])
def test_change_after_forward_pass_is_an_error(which):
    norm, conv, last = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)
    image, base = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 5, 5)
    with with_recompute():
        result = last(norm(conv(image)) + base).sigmoid()
    with torch.no_grad():
        {"input": image, "output": result, "source": base}[which].mul_(2.0)
    with pytest.raises(RuntimeError, match="changed in place"):
        result.sum().backward()


@pytest.mark.parametrize("changed", [False, True])
def test_forced_save_is_not_recomputed(changed, monkeypatch):
    norm, conv, last = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)
    image, made, gradients = torch.randn(2, 3, 5, 5), [], []
    compute = Recipe.compute
    monkeypatch.setattr(Recipe, "compute", lambda self: [made.append(1), compute(self)][1])
    for context in (plain_autograd, with_recompute):
        last.zero_grad()
        with context() as mode:
            result = norm(conv(image)) * 2
            if mode is not None:
                mode.force_save(result)
            loss = last(result).square().sum()
            if changed and mode is not None:
                with torch.no_grad():
                    result.mul_(3.0)  # what was noted is computed again then
        loss.backward()
        gradients.append(last.weight.grad.clone())
    assert torch.equal(*gradients)
    assert bool(made) == changed


def test_chain_of_sums_needs_few_tensors_at_a_time():
    alive, most = set(), 0

    def track_tensor(tensor):
        nonlocal most
        alive.add(id(tensor))
        weakref.finalize(tensor, alive.discard, id(tensor))
        most = max(most, len(alive))
        return tensor

    one = torch.ones(3)

    def part(again, *sources):
        recipe = Recipe(lambda *values: track_tensor(again(*values)), sources, one)
        return RecipeView(recipe, torch.Size([3]), (1,), 0)

    row = part(torch.clone, one)
    for number in range(10):  # as of a stage: what a block's last normalization gave, and what went by it
        row = part(torch.add, part(lambda one, number=number: number * one, one), row)
    assert row.read().tolist() == [46.0] * 3
    assert most <= 4


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_dilated_weight_gradient_has_layout_of_the_weight(layout):
    conv = FastConv3x3(4, 6, 3, padding=24, dilation=24, bias=False).to(memory_format=layout)
    made = []
    conv.weight.register_hook(lambda gradient: made.append(gradient.data_ptr()))
    conv(torch.randn(2, 4, 30, 31)).square().sum().backward()
    assert conv.weight.grad.stride() == conv.weight.stride()
    assert (conv.weight.grad.data_ptr() == made[0]) == (layout is torch.channels_last)


@pytest.mark.parametrize("stages", [["layer3"], ["layer1", "layer4"]])
def test_checkpointed_stages_take_identical_steps(stages):
    image = torch.randint(0, 256, (2, 3, 41, 56), dtype=torch.uint8)
    plain, again = network("resnest_blocks"), network("resnest_blocks")
    recompute_stages(again, stages)
    expected = run_steps(plain, image, context=plain_autograd)
    found = run_steps(again, image, context=with_recompute)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert plain.state_dict().keys() == again.state_dict().keys()
    assert int(again.backbone.layer1[0].bn1.num_batches_tracked) == 2


def test_checkpointed_stages_store_less(monkeypatch):
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    model = network("resnest_blocks", "fcn", drop_block=0.0, output_stride=8)
    before = stored_bytes(model, image, monkeypatch, context=with_recompute)
    recompute_stages(model, ["layer1", "layer2", "layer3", "layer4"])
    assert stored_bytes(model, image, monkeypatch, context=with_recompute) < 0.7 * before


def test_copy_of_checkpointed_model_is_independent():
    image = torch.randint(0, 256, (2, 3, 41, 56), dtype=torch.uint8)
    model = network().eval()
    recompute_stages(model, ["layer1"])
    copied = copy.deepcopy(model)
    expected = model(image).main
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(copied(image).main, expected)


def test_unknown_checkpointed_stage_is_rejected():
    with pytest.raises(
        ValueError, match=r"runtime.activation_checkpointing=\['layer9'\].*it has layer1, layer2"
    ):
        recompute_stages(network(), ["layer9"])


@settings(max_examples=120, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(4, 9),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dilation=st.integers(1, 4) | st.sampled_from([6, 12, 24, 36]),
    amx=st.booleans(),
    layout=st.sampled_from([torch.channels_last, torch.contiguous_format]),
)
def test_gradients_of_fast_convolutions_equal_plain_ones(batch, channels, size, dilation, amx, layout):
    assume(amx or dilation > 1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(conv3x3, "has_amx", lambda: amx)
        patched.setattr(conv3x3, "WIDE_INPUT", 3)
        patched.setattr(conv3x3, "CHANNELS_AT_ONCE", 4)
        torch.manual_seed(channels)
        plain = nn.Conv2d(channels, 5, 3, padding=dilation, dilation=dilation).double()
        ours = copy.deepcopy(plain)
        assert is_replaceable(ours)
        ours.__class__ = FastConv3x3
        image = torch.randn(batch, channels, *size).double().contiguous(memory_format=layout)
        results = [run_convolution(conv, image, bf16=False) for conv in (ours, plain)]
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_wide_convolutions_are_replaced_with_amx_only(monkeypatch):
    wide = nn.Conv2d(768, 4, 3, padding=1)
    for amx in (False, True):
        monkeypatch.setattr(conv3x3, "has_amx", lambda amx=amx: amx)
        assert is_replaceable(wide) == amx
    assert not is_replaceable(nn.Conv2d(512, 4, 3, padding=1))


def test_split_weight_gradient_is_bit_identical_in_bf16():
    torch.manual_seed(0)
    layout = {"memory_format": torch.channels_last}
    image = torch.randn(2, 700, 9, 11).bfloat16().contiguous(**layout)
    grad = torch.randn(2, 24, 9, 11).bfloat16().contiguous(**layout)
    weight = torch.randn(24, 700, 3, 3).bfloat16()
    shape = [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False]
    expected = torch.ops.aten.convolution_backward(grad, image, weight, None, *shape)[1]
    assert torch.equal(conv3x3.split_weight_gradient(image, grad, weight, 1), expected)


@settings(max_examples=100, deadline=None)
@given(
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dilation=st.integers(2, 40),
    rows=st.sampled_from([1, 3, 100]),
    bias=st.booleans(),
    layout=st.sampled_from([torch.channels_last, torch.contiguous_format]),
    min_side=st.sampled_from([1, 8, 100]),
)
def test_atrous_forward_equals_convolution(batch, size, dilation, rows, bias, layout, min_side):
    generator = torch.Generator().manual_seed(dilation)
    x = torch.randn(batch, 3, *size, dtype=torch.double, generator=generator).contiguous(memory_format=layout)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.double, generator=generator)
    shift = torch.randn(4, dtype=torch.double, generator=generator) if bias else None
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(conv3x3, "BUFFER", rows * batch * size[1] * 27 * 8)
        patched.setattr(conv3x3, "MIN_PHASE_SIDE", min_side)
        found = conv3x3.convolve(x, weight, shift, dilation)
    torch.testing.assert_close(found, nn.functional.conv2d(x, weight, shift, 1, dilation, dilation))
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("size", [(9, 7), (3, 4), (1, 1)])
def test_joined_resized_maps_have_plain_gradients(size, layout, align_corners):
    gradients, layouts = [], []
    for context in (plain_autograd, with_recompute):
        torch.manual_seed(0)
        x = torch.randn(2, 4, *size, dtype=torch.double).contiguous(memory_format=layout).requires_grad_()
        other = torch.randn(2, 3, 9, 7, dtype=torch.double).contiguous(memory_format=layout)
        with context():
            wide = nn.functional.interpolate(x, (9, 7), mode="bilinear", align_corners=align_corners)
            result = torch.cat([other, wide, other], 1)
        wide.register_hook(lambda grad: layouts.append(grad.is_contiguous(memory_format=torch.channels_last)))
        (result * torch.randn(result.shape, dtype=torch.double)).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)
    assert layouts[1] or layout == torch.contiguous_format


def relative_errors(found, exact):
    """Return the largest error of each tensor relative to the largest exact value."""
    return [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True)]


def run_convolution(conv, image, *, bf16):
    """Return the result of a convolution and its gradients, in float64."""
    x = image.detach().clone().to(conv.weight.dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = conv(x)
    generator = torch.Generator().manual_seed(2)
    out.backward(torch.randn(out.shape, generator=generator).bfloat16().to(out.dtype))
    return [tensor.double() for tensor in (out.detach(), x.grad, *(p.grad for p in conv.parameters()))]


@pytest.mark.parametrize("min_side", [1, 8])
@pytest.mark.parametrize("dilation", [3, 12, 24])
def test_bf16_products_are_as_exact_as_convolution(dilation, min_side, monkeypatch):
    monkeypatch.setattr(conv3x3, "MIN_PHASE_SIDE", min_side)
    monkeypatch.setattr(conv3x3, "has_amx", lambda: True)
    torch.manual_seed(0)
    conv = FastConv3x3(1536, 16, 3, padding=dilation, dilation=dilation)
    plain = nn.Conv2d(1536, 16, 3, padding=dilation, dilation=dilation)
    exact = nn.Conv2d(1536, 16, 3, padding=dilation, dilation=dilation).double()
    for module in (plain, exact):
        module.load_state_dict({name: v.bfloat16().float() for name, v in conv.state_dict().items()})
    conv.load_state_dict(plain.state_dict())
    image = torch.randn(2, 1536, 20, 27).relu().bfloat16().float()
    expected = run_convolution(exact, image, bf16=False)
    ours = relative_errors(run_convolution(conv, image, bf16=True), expected)
    theirs = relative_errors(run_convolution(plain, image, bf16=True), expected)
    assert all(found <= 1.2 * peer for found, peer in zip(ours, theirs, strict=True)), (ours, theirs)


def test_bf16_inference_uses_products_with_amx(monkeypatch):
    calls = []
    convolve = conv3x3.convolve
    monkeypatch.setattr(conv3x3, "has_amx", lambda: True)
    monkeypatch.setattr(conv3x3, "convolve", lambda *args: calls.append(args[3]) or convolve(*args))
    model = network(backbone="resnest", variant="14", width=8).eval()
    image = torch.randint(0, 256, (1, 3, 65, 90), dtype=torch.uint8)
    expected = model(image).main
    found = prepare(model, precision="bf16")(model.normalize(image).bfloat16()).main
    assert calls == [24, 36]
    assert (found.float() - expected).abs().max() <= 0.05 * expected.abs().max()


@pytest.mark.parametrize("size", [(5, 7), (16, 16), (1, 3)])
@pytest.mark.parametrize("reach", [1, 4, 12])
def test_share_inside_counts_products_without_padding(size, reach):
    ones = torch.ones(1, 1, *size)
    products = nn.functional.conv2d(ones, torch.ones(1, 1, 3, 3), padding=reach, dilation=reach).sum()
    assert share_inside(ones.shape[2:], reach) == pytest.approx(float(products) / (9 * ones.numel()))


THIN = {"width": 8, "output_stride": 8}
BLOCKS = {
    "resnest": {"name": "resnest", "variant": "26", "drop_block": 0.2, **THIN},
    "fast": {"name": "resnest", "variant": "50_fast_1s4x24d", "blocks": [1, 1, 2, 1], **THIN},
    **{
        unit: {"name": "resnet", "variant": unit, "blocks": [1, 1, 2, 2], **THIN}
        for unit in ("50", "50d", "50_32x4d", "se_50", "cbam_50", "sge_50", "sk_50", "sknet_50")
    },
    "convnext": {"name": "timm", "variant": "convnext_atto"},
    "efficientnet": {"name": "timm", "variant": "efficientnet_b0"},
}
HEADS = ["deeplabv3", "deeplabv3_mmseg", "deeplabv3plus", "fcn", "pspnet"]


@pytest.mark.medium
@pytest.mark.parametrize("block", [*BLOCKS])
@pytest.mark.parametrize("seed", [0, 1])
def test_optimized_networks_equal_plain_networks(block, seed):
    """Random heads, sizes and options; float64, so that rounding is far below the tolerance."""
    draw = random.Random(f"{block} {seed}")
    head, size = draw.choice(HEADS), (draw.randrange(33, 90), draw.randrange(33, 90))
    stride = draw.choice([8, 16, 32]) if block not in ("convnext", "efficientnet") else 32
    frozen, checkpointed = draw.random() < 0.3, draw.random() < 0.3
    image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    results = []
    for optimized in (False, True):
        torch.manual_seed(seed)
        backbone = {**BLOCKS[block], "output_stride": stride}
        model = segmenter.build(5, backbone=backbone, head={"name": head, "width": 16}).double()
        model = model.to(memory_format=torch.channels_last)
        if optimized:
            if checkpointed and hasattr(model.backbone, "layer3"):
                recompute_stages(model, ["layer3"])
            optimize_for_cpu(model)
        for module in model.modules() if frozen else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        results.append(run_steps(model, image, context=plain_autograd))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-7, atol=1e-9)


def test_optimize_for_cpu_keeps_parameter_names():
    model = network()
    names, copied = [*model.state_dict()], copy.deepcopy(model)
    optimize_for_cpu(model)
    optimize_for_cpu(model)
    assert isinstance(model, segmenter.Segmenter)
    assert [*model.state_dict()] == names
    assert type(model.head.aspp.b1[0]) is FastConv3x3
    assert type(model.backbone.layer1[0].conv2) is FastSplitAttention
    assert type(copied.head.aspp.b1[0]) is nn.Conv2d
    image = torch.randint(0, 256, (2, 3, 41, 56), dtype=torch.uint8)
    assert torch.equal(model.eval()(image).main, copied.eval()(image).main)


@pytest.mark.parametrize(
    "changed",
    [
        {"dilation": 1, "padding": 1},
        {"stride": 2},
        {"groups": 2},
        {"padding": 1},
        {"padding_mode": "reflect"},
    ],
)
def test_other_convolutions_are_not_replaced(changed):
    assert is_replaceable(nn.Conv2d(4, 4, 3, dilation=2, padding=2, bias=False))
    assert not is_replaceable(nn.Conv2d(4, 4, 3, **{"dilation": 2, "padding": 2, "bias": False, **changed}))


LAYOUTS = {"last": torch.channels_last, "first": torch.contiguous_format}
SIZES = {"batch": st.integers(1, 3), "channels": st.integers(1, 5), "height": st.integers(1, 6)}
drawn = {
    **SIZES,
    "width": st.integers(1, 6),
    "parts": st.integers(1, 4),
    "layout": st.sampled_from([*LAYOUTS]),
}


def split_gradients(way, x, weights):
    """Of a sum that uses the blend and the pooled map, as Split-Attention does."""
    x, weights = x.clone().requires_grad_(), weights.clone().requires_grad_()
    means, blend = way(x, weights)
    value = (blend * torch.arange(blend.numel(), dtype=x.dtype).view(blend.shape)).sum() + means.pow(3).sum()
    return [means.detach(), blend.detach(), *torch.autograd.grad(value, (x, weights))]


@settings(max_examples=60, deadline=None)
@given(**drawn)
def test_split_gradients_equal_plain_autograd(batch, channels, height, width, parts, layout):
    torch.manual_seed(batch + 10 * channels + 100 * height + width)
    x = torch.randn(batch, parts * channels, height, width, dtype=torch.float64)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    weights = torch.randn(batch, parts, channels, 1, 1, dtype=torch.float64)

    def plain(x, weights):
        stacked = x.unflatten(1, (parts, channels))
        return x.mean((2, 3), keepdim=True), (stacked * weights).sum(1)

    found = split_gradients(lambda x, weights: (global_mean(x), weighted_splits(x, weights)), x, weights)
    for ours, expected in zip(found, split_gradients(plain, x, weights), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_split_gradients_stay_channels_last():
    x = torch.randn(2, 8, 5, 4).contiguous(memory_format=torch.channels_last)
    weights = torch.randn(2, 2, 4, 1, 1)
    of_x = split_gradients(lambda x, weights: (global_mean(x), weighted_splits(x, weights)), x, weights)[2]
    assert of_x.is_contiguous(memory_format=torch.channels_last)
