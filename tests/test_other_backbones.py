"""The other backbones: counts to the unit, equal to torchvision and timm, dilatable, classifiers."""

from __future__ import annotations

import re
import typing

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision

import originals
from segkit.config import registry
from segkit.models.backbones import resnest, resnet

COUNTS = {  # variant of resnet: parameters with 1000 classes
    "50": 25_557_032,
    "101": 44_549_160,
    "50d": 25_576_264,
    "101d": 44_568_392,
    "50_32x4d": 25_028_904,
    "101_32x8d": 88_791_336,
    "se_50": 28_088_024,
    "se_101": 49_326_872,
    "sk_50": 26_154_496,
    "sge_50": 25_559_080,
    "sge_101": 44_553_384,
    "sknet_50": 27_479_784,  # 27.5 million in the paper
}


def build(variant, num_classes=None, **settings):
    settings = {"name": "resnet", "variant": variant, **settings}
    return registry.build("models.backbones", settings, num_classes=num_classes)


def on_meta(variant, num_classes=None, **settings):
    with torch.device("meta"):
        return build(variant, num_classes, **settings)


@pytest.mark.parametrize("variant", COUNTS)
def test_resnet_has_published_parameter_count(variant):
    assert sum(p.numel() for p in on_meta(variant, 1000).parameters()) == COUNTS[variant]


def test_sknet_101_count_of_the_paper_includes_statistics():
    network = on_meta("sknet_101", 1000)
    statistics = sum(b.numel() for n, b in network.named_buffers() if "running" in n)
    count = sum(p.numel() for p in network.parameters()) + statistics
    assert round(count / 1e6, 2) == 48.91  # 48.9 in the paper


def agree(ours, theirs, **settings):
    """Equal class scores and last stage from equal weights, in float32."""
    theirs = originals.randomize(theirs).float()
    ours = on_meta(ours, 1000, **settings).eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    image = torch.randn(1, 3, 70, 57)
    with torch.inference_mode():
        expected = theirs(image)
        assert (ours.classify(image) - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize(
    ("variant", "output_stride", "dilate"),
    [
        ("50", 8, [False, True, True]),
        ("50", 16, [False, False, True]),
        ("50", 32, [False, False, False]),
        ("50_32x4d", 8, [False, True, True]),
    ],
)
def test_resnet_equals_torchvision(variant, output_stride, dilate):
    name = f"resnext{variant}" if "x" in variant else f"resnet{variant}"
    theirs = getattr(torchvision.models, name)(replace_stride_with_dilation=dilate)
    agree(variant, theirs, output_stride=output_stride)


@pytest.mark.medium
@pytest.mark.parametrize("variant", ["50c", "50d", "50s"])
def test_undilated_variants_equal_timm(variant):
    agree(variant, timm.create_model(f"resnet{variant}"), output_stride=32)


def test_published_addresses_equal_torchvision():
    for variant in ("101", "152", "50_32x4d", "101_32x8d"):
        name = f"ResNeXt{variant}" if "x" in variant else f"ResNet{variant}"
        weights = torchvision.models.get_model_weights(name.lower()).IMAGENET1K_V1
        assert resnet.PUBLISHED[variant] == weights.url


# ---- published layouts


def bottleneck(state, name, x, stride):
    out = originals.conv_norm_relu(state, f"{name}.conv1", f"{name}.bn1", x)
    out = originals.conv_norm_relu(state, f"{name}.conv2", f"{name}.bn2", out, stride=stride, padding=1)
    return originals.norm(state, f"{name}.bn3", originals.conv(state, f"{name}.conv3", out))


def insight_se_block(state, name, x, stride):
    """The SE layer of implus/PytorchInsight: two linear layers in a sequence."""
    out = bottleneck(state, name, x, stride)
    z = out.mean((2, 3))
    z = F.relu(F.linear(z, state[f"{name}.se.fc.0.weight"], state[f"{name}.se.fc.0.bias"]))
    z = F.linear(z, state[f"{name}.se.fc.2.weight"], state[f"{name}.se.fc.2.bias"])
    return out * torch.sigmoid(z)[:, :, None, None]


def insight_sk_block(state, name, x, stride):
    """A dense and a grouped 3x3 side by side, weighed by what both say."""
    out = originals.conv_norm_relu(state, f"{name}.conv1", f"{name}.bn1", x)
    how = {"stride": stride, "padding": 1}
    one = originals.conv_norm_relu(state, f"{name}.conv2", f"{name}.bn2", out, **how)
    two = originals.conv_norm_relu(state, f"{name}.conv2g", f"{name}.bn2g", out, **how, groups=32)
    z = one.mean((2, 3), keepdim=True) + two.mean((2, 3), keepdim=True)
    z = originals.conv_norm_relu(state, f"{name}.conv_fc1", f"{name}.bn_fc1", z)
    z = originals.conv(state, f"{name}.conv_fc2", z)
    weights = torch.softmax(z.view(len(x), 2, -1, 1, 1), 1)
    out = one * weights[:, 0] + two * weights[:, 1]
    return originals.norm(state, f"{name}.bn3", originals.conv(state, f"{name}.conv3", out))


def cbam_block(state, name, x, stride):
    """That of Jongchan/attention-module: two linear layers over both pools, then a 7x7 over two maps."""
    out = bottleneck(state, name, x, stride)
    gate, total = f"{name}.cbam.ChannelGate.mlp", 0
    for pool in (F.avg_pool2d, F.max_pool2d):
        z = pool(out, out.shape[2:]).flatten(1)
        z = F.relu(F.linear(z, state[f"{gate}.1.weight"], state[f"{gate}.1.bias"]))
        total = total + F.linear(z, state[f"{gate}.3.weight"], state[f"{gate}.3.bias"])
    out = out * torch.sigmoid(total)[:, :, None, None]
    maps = torch.cat([out.max(1)[0].unsqueeze(1), out.mean(1).unsqueeze(1)], 1)
    place = f"{name}.cbam.SpatialGate.spatial"
    scale = originals.norm(state, f"{place}.bn", originals.conv(state, f"{place}.conv", maps, padding=3))
    return out * torch.sigmoid(scale)


def insight(state, block, x):
    """A classifier of implus/PytorchInsight, undilated."""
    x = originals.conv_norm_relu(state, "conv1", "bn1", x, stride=2, padding=3)
    x = F.max_pool2d(x, 3, 2, 1)
    for layer in (1, 2, 3, 4):
        for i in range(100):
            name = f"layer{layer}.{i}"
            if f"{name}.conv1.weight" not in state:
                break
            stride = 2 if layer > 1 and i == 0 else 1
            out = block(state, name, x, stride)
            if i == 0:
                x = originals.conv(state, f"{name}.downsample.0", x, stride=stride)
                x = originals.norm(state, f"{name}.downsample.1", x)
            x = F.relu(out + x)
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def published_state(variant, names):
    """Random weights of our network under published names (pairs of pattern and replacement)."""
    torch.manual_seed(0)
    network = originals.randomize(build(variant, 10, **THIN))
    state = {}
    for key, tensor in network.state_dict().items():
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        state[key] = (
            tensor[:, :, 0, 0] if (".se.fc." in key or ".mlp." in key) and tensor.ndim == 4 else tensor
        )
    return state


THIN = {"width": 32}  # the 32 groups of the published width
CBAM_NAMES = (
    (r"attention\.fc1", "cbam.ChannelGate.mlp.1"),
    (r"attention\.fc2", "cbam.ChannelGate.mlp.3"),
    (r"attention\.(conv|bn)", r"cbam.SpatialGate.spatial.\1"),
)
SE_NAMES = ((r"attention\.fc1", "se.fc.0"), (r"attention\.fc2", "se.fc.2"))
SK_NAMES = (
    (r"conv2\.paths\.0\.conv", "conv2"),
    (r"conv2\.paths\.0\.bn", "bn2"),
    (r"conv2\.paths\.1\.conv", "conv2g"),
    (r"conv2\.paths\.1\.bn", "bn2g"),
    (r"conv2\.attn\.fc_reduce", "conv_fc1"),
    (r"conv2\.attn\.bn", "bn_fc1"),
    (r"conv2\.attn\.fc_select", "conv_fc2"),
)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("variant", "names", "block"),
    [
        ("se_50", SE_NAMES, insight_se_block),
        ("sk_50", SK_NAMES, insight_sk_block),
        ("cbam_50", CBAM_NAMES, cbam_block),
    ],
)
def test_pytorch_insight_checkpoints_keep_their_scores(variant, names, block, tmp_path):
    state = published_state(variant, names)
    file = tmp_path / "x.pth.tar"
    torch.save({"epoch": 99, "state_dict": {f"module.{k}": v for k, v in state.items()}}, file)
    ours = build(variant, 10, output_stride=32, weights=str(file), **THIN).double().eval()
    image = torch.randn(1, 3, 70, 57, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(ours.classify(image), insight(state, block, image), rtol=1e-5, atol=1e-5)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("variant", "theirs"),
    [("se_50", "seresnet50"), ("se_50_32x4d", "seresnext50_32x4d"), ("sknet_50", "skresnext50_32x4d")],
)
def test_timm_checkpoints_keep_their_scores(variant, theirs, tmp_path):
    original = originals.randomize(timm.create_model(theirs, num_classes=10)).float()
    torch.save(original.state_dict(), tmp_path / "x.pth")
    network = build(variant, 10, output_stride=32, weights=f"{tmp_path}/x.pth").eval()
    image = torch.randn(1, 3, 70, 57)
    with torch.inference_mode():
        expected = original(image)
        assert (network.classify(image) - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.medium
@pytest.mark.parametrize("theirs", ["skresnet18", "skresnet50d"])
def test_timm_skresnet_checkpoint_is_rejected(theirs, tmp_path):
    torch.save(timm.create_model(theirs).state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"of another shape: (.|\n)*branches read half of the channels"):
        build("sknet_50", weights=f"{tmp_path}/x.pth")


# ---- settings of the papers

EVERY_FAMILY = [("resnest", variant) for variant in ("14", "50_fast_4s2x40d", "50_fast_1s4x24d")]
UNITS = ("50s", "50_32x4d", "se_50", "se_50_32x4d", "sge_50", "sknet_50", "sk_50", "cbam_50")
EVERY_FAMILY += [("resnet", variant) for variant in UNITS]


@pytest.mark.parametrize("width", [8, 12])
@pytest.mark.parametrize(("name", "variant"), EVERY_FAMILY)
def test_thin_networks_of_every_family_train(name, variant, width):
    network = build(variant, name=name, width=width).train()
    stages = network(torch.randn(2, 3, 16, 16))
    assert [stage.shape[1] for stage in stages] == [width * 4, width * 8, width * 16, width * 32]
    stages[-1].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("given", "channels"),
    [
        ({"name": "resnest", "variant": "50", "radix": 3}, 64),
        ({"variant": "sknet_50", "groups": 24}, 128),
        ({"variant": "sk_50", "groups": 24}, 64),
        ({"variant": "sge_50", "groups": 48}, 256),
    ],
)
def test_indivisible_groups_are_rejected(given, channels):
    with pytest.raises(ValueError, match=rf"^model\.backbone\.\w+=\d+: must divide {channels} channels$"):
        build(**given)


def test_selective_kernel_takes_settings_of_the_paper():
    network = on_meta("sknet_50", branches=3, groups=64, reduction=8, least_inner=48)
    block = network.layer1[0].conv2
    assert [path.conv.dilation for path in block.paths] == [(1, 1), (2, 2), (3, 3)]
    assert {path.conv.groups for path in block.paths} == {64}
    assert block.attn.fc_reduce.out_channels == 48  # 128 / 8 is below
    assert network.layer4[0].conv2.attn.fc_reduce.out_channels == 1024 // 8
    assert block.attn.fc_select.out_channels == 3 * 128


def test_se_and_sge_take_settings_of_the_papers():
    assert on_meta("se_50", reduction=4).layer1[0].attention.fc1.out_channels == 64
    enhance = on_meta("sge_50", groups=32, normalize=False).layer4[0].attention
    assert (enhance.groups, enhance.weight.shape[1], enhance.normalize) == (32, 32, False)


def test_settings_of_another_unit_are_rejected():
    with pytest.raises(ValueError, match=r"branches=3: must be null, .*se_50 .*settings: reduction\)"):
        on_meta("se_50", branches=3)
    with pytest.raises(ValueError, match=r"kernel=4: must be odd"):
        on_meta("cbam_50", kernel=4)


@pytest.mark.parametrize("name", ["resnet", "resnest"])
def test_blocks_setting_needs_four_numbers(name):
    network = on_meta("50", name=name, blocks=[1, 2, 3, 1])
    assert [len(getattr(network, f"layer{i}")) for i in (1, 2, 3, 4)] == [1, 2, 3, 1]
    with pytest.raises(ValueError, match=r"blocks=\[1, 2\]: needs a number for each of the four stages"):
        on_meta("50", name=name, blocks=[1, 2])


@pytest.mark.parametrize("backbone", [resnet, resnest])
def test_variants_match_the_signature(backbone):
    named = typing.get_args(typing.get_type_hints(backbone.build)["variant"])
    assert list(named) == list(backbone.VARIANTS)
    assert set(backbone.PUBLISHED) < set(named)


def test_stem_shortcut_and_pool_apply_to_any_unit():
    same = {"stem_width": 32, "average_down": True}
    plain = on_meta("50", 1000, **same)
    assert sum(p.numel() for p in plain.parameters()) == COUNTS["50d"]
    enhanced = on_meta("sge_50", **same, pool="after")
    assert isinstance(enhanced.layer2[0].pool, torch.nn.AvgPool2d)
    assert enhanced.layer2[0].conv2.stride == (1, 1)
