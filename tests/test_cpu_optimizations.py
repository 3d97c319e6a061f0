"""CPU optimizations: less is kept for the backward pass, and results differ in rounding only."""

import contextlib
import copy
import gc
import operator
import random
import weakref

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from segkit.cpu import conv3x3, depthwise, optimize_for_cpu, recompute
from segkit.cpu.blocks import FastSplitAttention, global_mean, weighted_splits
from segkit.cpu.conv3x3 import FastConv3x3, is_replaceable
from segkit.cpu.recompute import Recipe, RecipeView, Recompute, StoredTensor
from segkit.inference import prepare
from segkit.models import segmenter
from segkit.training.activation_checkpointing import recompute_stages

LAYOUTS = st.sampled_from([torch.channels_last, torch.contiguous_format])
THIN = {"width": 8, "output_stride": 8}
BACKBONES = {
    "resnest14": {"name": "resnest", "variant": "14", **THIN},
    "resnest26": {"name": "resnest", "variant": "26", "drop_block": 0.1, **THIN, "output_stride": 16},
    "fast": {"name": "resnest", "variant": "50_fast_1s4x24d", "blocks": [1, 1, 2, 1], **THIN},
    **{
        unit: {"name": "resnet", "variant": unit, "blocks": [1, 1, 2, 2], **THIN}
        for unit in ("50", "50d", "50_32x4d", "se_50", "cbam_50", "sge_50", "sk_50", "sknet_50")
    },
    "convnext": {"name": "timm", "variant": "convnext_atto"},
    "efficientnet": {"name": "timm", "variant": "efficientnet_b0"},
}
HEADS = ["deeplabv3", "deeplabv3_mmseg", "deeplabv3plus", "fcn", "pspnet"]


def network(backbone="resnest14", head="deeplabv3", **settings):
    torch.manual_seed(0)
    backbone = {**BACKBONES[backbone], **settings}
    model = segmenter.build(5, backbone=backbone, head={"name": head}, auxiliary={"name": "fcn", "stage": 3})
    return model.to(memory_format=torch.channels_last)


def draw_image(*size):
    return torch.randint(0, 256, (2, 3, *(size or (41, 56))), dtype=torch.uint8)


def with_recompute(model=None):
    """Return the context of a forward pass with recomputation."""
    return Recompute() if model is None else recompute.recompute_context(model)


def plain_autograd(model=None):
    """Return the context of a forward pass with plain autograd."""
    return contextlib.nullcontext(model)


def run_steps(model, image, *, context=plain_autograd, bf16=False):
    """Return gradients, weights and batch statistics after two steps."""
    torch.manual_seed(1)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16), context(model):
            found = model(image)
        sum(logits.float().square().mean() for logits in found[:2] if logits is not None).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
    return [*(p.grad for p in model.parameters()), *model.state_dict().values()]


def assert_bit_equal(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.medium
@pytest.mark.parametrize("block", [*BACKBONES])
@pytest.mark.parametrize("seed", [0, 1])
def test_optimized_networks_equal_plain_networks(block, seed):
    """Random heads, sizes and options; float64, so that rounding is far below the tolerance."""
    draw = random.Random(f"{block} {seed}")
    head, image = draw.choice(HEADS), draw_image(draw.randrange(33, 90), draw.randrange(33, 90))
    stride = draw.choice([8, 16, 32]) if block not in ("convnext", "efficientnet") else 32
    frozen, checkpointed = draw.random() < 0.3, draw.random() < 0.3
    results = []
    for optimized in (False, True):
        torch.manual_seed(seed)
        backbone = {**BACKBONES[block], "output_stride": stride}
        model = segmenter.build(5, backbone=backbone, head={"name": head, "width": 16}).double()
        model = model.to(memory_format=torch.channels_last)
        if optimized:
            if checkpointed and hasattr(model.backbone, "layer3"):
                recompute_stages(model, ["layer3"])
            optimize_for_cpu(model)
        for module in model.modules() if frozen else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        results.append(run_steps(model, image))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-7, atol=1e-9)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("backbone", "head", "bf16"), [("resnest26", "pspnet", True), ("fast", "fcn", False)]
)
def test_recomputed_steps_equal_plain_autograd_bitwise(backbone, head, bf16):
    image = draw_image()
    results = [
        run_steps(network(backbone, head), image, context=context, bf16=bf16)
        for context in (plain_autograd, with_recompute)
    ]
    assert_bit_equal(*results)


def gradients_of(compute, parameters, *, context, bf16=False):
    torch.manual_seed(0)  # of dropout
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), context():
        result = compute()
    return torch.autograd.grad(result.float().square().sum(), parameters, materialize_grads=True)


def change_without_gradient(x, y):
    with torch.no_grad():
        return x.mul_(3.0)


class Doubling(nn.BatchNorm2d):
    """Normalizes something else than what it was given."""

    def forward(self, input):
        return super().forward(input * input + input)


OPERATIONS = {  # of two maps; a changed map is used again by later operations
    "add": operator.add,
    "multiply": torch.mul,
    "relu": lambda x, y: F.relu(x),
    "silu": lambda x, y: F.silu(x),
    "join": lambda x, y: torch.cat([y, x], 1)[:, 1:4],
    "add a part": lambda x, y: x + y[:, :1],
    "pool": lambda x, y: F.avg_pool2d(x, 3, 1, 1),
    "sigmoid": lambda x, y: x.sigmoid(),
    "add in place": operator.iadd,
    "multiply in place": lambda x, y: x.mul_(y),
    "scale in place": lambda x, y: x.mul_(0.5),
    "add a part in place": lambda x, y: x.add_(y.relu()[:, :1]),
    "add a multiple in place": lambda x, y: x.add_(y, alpha=2),
    "relu in place": lambda x, y: F.relu(x, inplace=True),
    "relu_": lambda x, y: x.relu_(),
    "silu in place": lambda x, y: F.silu(x, inplace=True),
    "change a part": lambda x, y: x[:, :1].relu_(),
    "set a part": lambda x, y: operator.setitem(x, (slice(None), 0), 0.0),
    "clamp": lambda x, y: x.clamp_(min=0.0),
    "dropout": lambda x, y: F.dropout(x, 0.5, True, True),
    "change without gradient": change_without_gradient,
}
MODULES = {
    "convolve": nn.Conv2d(3, 3, 1),
    "normalize": nn.BatchNorm2d(3),
    "normalize as trained": nn.BatchNorm2d(3).eval(),
    "normalize and activate": BatchNormAct2d(3),
    "normalize something else": Doubling(3),
}
places = st.integers(0, 9)
programs = st.lists(
    st.tuples(st.sampled_from([*OPERATIONS, *MODULES, *MODULES]), places, places), max_size=12
)


@settings(max_examples=200, deadline=None)
@given(program=programs, bf16=st.booleans())
def test_recomputed_gradients_equal_plain_ones_in_random_programs(program, bf16):
    image = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(len(program)))
    parameters = [p for module in MODULES.values() for p in module.parameters()]

    def compute():
        maps = [MODULES["convolve"](image.clone()), MODULES["normalize"](image.clone())]
        for name, first, second in program:
            x, y = maps[first % len(maps)], maps[second % len(maps)]
            result = MODULES[name](x) if name in MODULES else OPERATIONS[name](x, y)
            if result is not None and result.shape == image.shape:
                maps.append(result)
        return sum(MODULES["convolve"](x) for x in maps[-3:])

    try:
        expected = gradients_of(compute, parameters, context=plain_autograd, bf16=bf16)
    except RuntimeError:  # a tensor needed by plain autograd was changed in place
        assume(False)
    assert_bit_equal(gradients_of(compute, parameters, context=with_recompute, bf16=bf16), expected)


@pytest.mark.parametrize("which", ["input", "output", "source"])
def test_change_after_forward_pass_is_an_error(which):
    norm, conv, last = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)
    image, base = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 5, 5)
    with Recompute():
        result = last(norm(conv(image)) + base).sigmoid()
    with torch.no_grad():
        {"input": image, "output": result, "source": base}[which].mul_(2.0)
    with pytest.raises(RuntimeError, match="changed in place"):
        result.sum().backward()


def stored_bytes(model, image, monkeypatch, *, context):
    """Return the bytes that a forward pass stores, without the parameters."""
    kept = {p.untyped_storage().data_ptr(): None for p in model.parameters()}

    def note(tensor):
        if isinstance(tensor, torch.Tensor):
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    def pack_and_note(self, tensor):
        result = pack(self, tensor)
        note(result.tensor if isinstance(result, StoredTensor) else result)
        return result

    pack = Recompute.pack
    with monkeypatch.context() as patched, saved_tensors_hooks(note, lambda tensor: tensor):
        patched.setattr(Recompute, "pack", pack_and_note)
        with context(model):
            model(image)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values() if tensor is not None)


def test_recompute_and_checkpointing_store_less(monkeypatch):
    image, model = draw_image(64, 64), network("resnest26", "fcn", drop_block=0.0, output_stride=8)
    plain = stored_bytes(model, image, monkeypatch, context=plain_autograd)
    recomputed = stored_bytes(model, image, monkeypatch, context=with_recompute)
    assert recomputed < 0.6 * plain
    recompute_stages(model, ["layer1", "layer2", "layer3", "layer4"])
    assert stored_bytes(model, image, monkeypatch, context=with_recompute) < 0.7 * recomputed


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


def test_long_stage_stores_few_sums_and_leaks_no_recipes(monkeypatch):
    """Once a result is kept because many build on each other, the next ones can be made again of it."""
    gc.collect()
    before = sum(type(thing) is Recipe for thing in gc.get_objects())
    row, image = Row(), torch.randn(8, 4, 64, 64)
    sums = stored_bytes(row, image, monkeypatch, context=with_recompute) / (4 * image.numel()) - 40
    assert sums <= 40 // recompute.MAX_DEPTH + 2
    found = [
        gradients_of(lambda: row(image), [*row.parameters()], context=context)
        for context in (plain_autograd, with_recompute)
    ]
    assert_bit_equal(*found)
    gc.collect()
    assert sum(type(thing) is Recipe for thing in gc.get_objects()) <= before


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


@pytest.mark.parametrize("changed", [False, True])
def test_forced_save_is_not_recomputed(changed, monkeypatch):
    norm, conv, last = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)
    image, made, compute = torch.randn(2, 3, 5, 5), [], Recipe.compute
    monkeypatch.setattr(Recipe, "compute", lambda self: [made.append(1), compute(self)][1])
    with Recompute() as mode:
        result = norm(conv(image)) * 2
        expected = result.detach().mean((0, 2, 3))
        mode.force_save(result)
        loss = last(result).sum()
        if changed:
            with torch.no_grad():
                result.mul_(3.0)  # what was noted is computed again then
    loss.backward()
    torch.testing.assert_close(last.weight.grad[0].flatten(), expected * 50)
    assert bool(made) == changed


@pytest.mark.parametrize(
    ("backbone", "stages", "bf16"),
    [
        ("resnest26", ["layer1", "layer4"], False),
        ("sk_50", ["layer3"], True),
    ],  # sk_50 has depthwise convolutions
)
def test_checkpointed_stages_take_identical_steps(backbone, stages, bf16):
    image, plain, again = draw_image(), network(backbone), network(backbone)
    recompute_stages(again, stages)
    for model in (plain, again):
        optimize_for_cpu(model)
    assert_bit_equal(run_steps(again, image, bf16=bf16), run_steps(plain, image, bf16=bf16))
    assert plain.state_dict().keys() == again.state_dict().keys()
    assert int(getattr(again.backbone, stages[0])[0].bn1.num_batches_tracked) == 2


def test_copy_of_checkpointed_model_is_independent():
    image, model = draw_image(), network().eval()
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
    image = draw_image()
    assert torch.equal(model.eval()(image).main, copied.eval()(image).main)


def test_only_dilated_and_with_amx_wide_convolutions_are_replaced(monkeypatch):
    wide = nn.Conv2d(768, 4, 3, padding=1)
    for amx in (False, True):
        monkeypatch.setattr(conv3x3, "has_amx", lambda amx=amx: amx)
        assert is_replaceable(wide) == amx
    assert not is_replaceable(nn.Conv2d(512, 4, 3, padding=1))
    dilated = {"dilation": 2, "padding": 2}
    assert is_replaceable(nn.Conv2d(4, 4, 3, **dilated))
    for change in ({"stride": 2}, {"groups": 2}, {"padding": 1}, {"padding_mode": "reflect"}):
        assert not is_replaceable(nn.Conv2d(4, 4, 3, **{**dilated, **change}))


def run_convolution(conv, image, *, bf16=False, context=plain_autograd):
    """Return the result of a copy of a convolution and its gradients, in float64."""
    conv, x = copy.deepcopy(conv), image.detach().clone().to(conv.weight.dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), context():
        out = conv(x)
    generator = torch.Generator().manual_seed(2)
    out.backward(torch.randn(out.shape, generator=generator).bfloat16().to(out.dtype))
    return [tensor.double() for tensor in (out.detach(), x.grad, *(p.grad for p in conv.parameters()))]


def check_bf16_errors(fast, plain, image, *, context=plain_autograd):
    """Check that a convolution is as exact in bf16 as PyTorch's."""
    plain.load_state_dict({name: v.bfloat16().float() for name, v in plain.state_dict().items()})
    fast.load_state_dict(plain.state_dict())
    exact = run_convolution(copy.deepcopy(plain).double(), image)
    ours = run_convolution(fast, image, bf16=True, context=context)
    theirs = run_convolution(plain, image, bf16=True)
    for a, b, right in zip(ours, theirs, exact, strict=True):
        assert (a - right).abs().max() <= 1.2 * (b - right).abs().max()


@settings(max_examples=120, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(4, 9),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dilation=st.integers(1, 4) | st.sampled_from([6, 12, 24, 36]),
    amx=st.booleans(),
    layout=LAYOUTS,
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
        results = [run_convolution(conv, image) for conv in (ours, plain)]
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_dilated_weight_gradient_is_kept_without_a_copy():
    conv = FastConv3x3(4, 6, 3, padding=24, dilation=24, bias=False).to(memory_format=torch.channels_last)
    made = []
    conv.weight.register_hook(lambda gradient: made.append(gradient.data_ptr()))
    conv(torch.randn(2, 4, 30, 31)).square().sum().backward()
    assert conv.weight.grad.stride() == conv.weight.stride()
    assert conv.weight.grad.data_ptr() == made[0]


def test_split_weight_gradient_is_bit_identical_in_bf16():
    torch.manual_seed(0)
    image, grad = (
        torch.randn(2, channels, 9, 11).bfloat16().contiguous(memory_format=torch.channels_last)
        for channels in (700, 24)
    )
    shape = [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False]
    weight = torch.randn(24, 700, 3, 3).bfloat16()
    expected = torch.ops.aten.convolution_backward(grad, image, weight, None, *shape)[1]
    assert torch.equal(conv3x3.split_weight_gradient(image, grad, 1), expected)


@settings(max_examples=100, deadline=None)
@given(
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dilation=st.integers(2, 40),
    rows=st.sampled_from([1, 3, 100]),
    bias=st.booleans(),
    layout=LAYOUTS,
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
    torch.testing.assert_close(found, F.conv2d(x, weight, shift, 1, dilation, dilation))
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("dilation", "min_side"), [(3, 1), (12, 1), (12, 8), (24, 8)])
def test_bf16_products_are_as_exact_as_convolution(dilation, min_side, monkeypatch):
    monkeypatch.setattr(conv3x3, "MIN_PHASE_SIDE", min_side)
    monkeypatch.setattr(conv3x3, "has_amx", lambda: True)
    torch.manual_seed(0)
    shape = {"padding": dilation, "dilation": dilation}
    image = torch.randn(2, 1536, 20, 27).relu().bfloat16().float()
    check_bf16_errors(FastConv3x3(1536, 16, 3, **shape), nn.Conv2d(1536, 16, 3, **shape), image)


def test_bf16_inference_uses_products_with_amx(monkeypatch):
    calls = []
    convolve = conv3x3.convolve
    monkeypatch.setattr(conv3x3, "has_amx", lambda: True)

    def note_dilation(*args, dilation):
        calls.append(dilation)
        return convolve(*args, dilation)

    monkeypatch.setattr(conv3x3, "convolve", note_dilation)
    model, image = network().eval(), draw_image(65, 90)
    expected = model(image).main
    found = prepare(model, precision="bf16")(model.normalize(image).bfloat16()).main
    assert calls == [24, 36]
    assert (found.float() - expected).abs().max() <= 0.05 * expected.abs().max()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_joined_resized_maps_have_plain_gradients(layout, align_corners):
    for size in ((9, 7), (3, 4), (1, 1)):
        gradients, layouts = [], []
        for context in (plain_autograd, with_recompute):
            torch.manual_seed(0)
            x = torch.randn(2, 4, *size, dtype=torch.double).contiguous(memory_format=layout)
            other = torch.randn(2, 3, 9, 7, dtype=torch.double).contiguous(memory_format=layout)
            x.requires_grad_()
            with context():
                wide = F.interpolate(x, (9, 7), mode="bilinear", align_corners=align_corners)
                result = torch.cat([other, wide, other], 1)
            wide.register_hook(
                lambda grad, layouts=layouts: layouts.append(
                    grad.is_contiguous(memory_format=torch.channels_last)
                )
            )
            (result * torch.randn(result.shape, dtype=torch.double)).sum().backward()
            gradients.append(x.grad)
        torch.testing.assert_close(*gradients)
        assert layouts[1] or layout == torch.contiguous_format


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    parts=st.integers(1, 4),
    layout=LAYOUTS,
)
def test_split_gradients_equal_plain_autograd(batch, channels, size, parts, layout):
    torch.manual_seed(batch + 10 * channels + 100 * sum(size))
    x = torch.randn(batch, parts * channels, *size, dtype=torch.float64).contiguous(memory_format=layout)
    weights = torch.randn(batch, parts, channels, 1, 1, dtype=torch.float64)

    def plain(x, weights):
        return x.mean((2, 3), keepdim=True), (x.unflatten(1, (parts, channels)) * weights).sum(1)

    results = []
    for way in (lambda x, weights: (global_mean(x), weighted_splits(x, weights)), plain):
        inputs = x.clone().requires_grad_(), weights.clone().requires_grad_()
        means, blend = way(*inputs)
        scale = torch.arange(blend.numel(), dtype=x.dtype).view(blend.shape)
        gradients = torch.autograd.grad((blend * scale).sum() + means.pow(3).sum(), inputs)
        results.append([means.detach(), blend.detach(), *gradients])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    assert results[0][2].is_contiguous(memory_format=layout)


lengths = st.one_of(st.integers(1, 4), st.integers(1, 40))
sides = st.tuples(lengths, lengths)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=200, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(2, 5),
    size=sides,
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.one_of(st.just(1), pairs),
    padding=st.one_of(st.integers(0, 6), st.tuples(st.integers(0, 6), st.integers(0, 6))),
    dilation=st.one_of(st.integers(1, 4), pairs),
    bias=st.booleans(),
    layout=LAYOUTS,
)
def test_depthwise_gradients_equal_pytorch(
    batch, channels, size, kernel, stride, padding, dilation, bias, layout
):
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(batch, channels, *size, dtype=torch.double, generator=generator)
    x = x.contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(channels, 1, *kernel, dtype=torch.double, generator=generator, requires_grad=True)
    shift = torch.randn(channels, dtype=torch.double, generator=generator, requires_grad=True)
    parameters = [x, weight] + [shift] * bias
    arguments = shift if bias else None, stride, padding, dilation, channels
    try:
        expected = F.conv2d(x, weight, *arguments)
    except RuntimeError:  # the kernel is larger than the padded map
        assume(False)
    found = depthwise.conv2d(x, weight, *arguments)
    assert torch.equal(found, expected)
    grad = torch.randn(expected.shape, dtype=torch.double, generator=generator)
    ours = torch.autograd.grad(found, parameters, grad)
    theirs = torch.autograd.grad(expected, parameters, grad)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def uses_own_gradient(conv, *, bf16=False):
    """Return whether a convolution of a training model gets the gradient of ``cpu.depthwise``."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), Recompute():
        result = conv(torch.randn(2, conv.in_channels, 20, 20))
    return type(result.grad_fn).__name__ == "ConvolutionBackward"


def test_slow_depthwise_gradients_are_replaced():
    assert uses_own_gradient(nn.Conv2d(4, 4, 5, padding=2, groups=4))
    assert uses_own_gradient(nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4))
    assert uses_own_gradient(Conv2dSame(4, 4, 5, stride=2, groups=4))
    assert uses_own_gradient(Conv2dSame(4, 4, 3, stride=2, groups=4), bf16=True)
    assert not uses_own_gradient(Conv2dSame(4, 4, 3, stride=2, groups=4))
    assert not uses_own_gradient(nn.Conv2d(4, 4, 3, padding=1, groups=4), bf16=True)
    assert not uses_own_gradient(nn.Conv2d(4, 4, 5, padding="same", groups=4))
    assert not uses_own_gradient(nn.Conv2d(4, 8, 5, padding=2, groups=4))
    assert not uses_own_gradient(nn.Conv2d(4, 4, 5, padding=2, groups=2))
    assert not uses_own_gradient(nn.Conv2d(4, 4, 5, padding=2))
    assert not uses_own_gradient(nn.Conv2d(4, 4, 5, padding=2, groups=4).requires_grad_(False))


@pytest.mark.parametrize(
    ("size", "stride", "dilation"), [(3, 2, 1), (5, 1, 1), (7, 1, 1), (5, 2, 1), (5, 1, 2)]
)
def test_bf16_depthwise_gradients_are_as_exact_as_pytorch(size, stride, dilation):
    conv = nn.Conv2d(32, 32, size, stride, dilation * (size // 2), dilation, groups=32)
    image = torch.randn(4, 32, 30, 27).bfloat16().float().contiguous(memory_format=torch.channels_last)
    check_bf16_errors(conv, copy.deepcopy(conv), image, context=with_recompute)
