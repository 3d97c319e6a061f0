"""The other backbones: counts to the unit, equal to torchvision and timm, dilatable, classifiers."""

from __future__ import annotations

import pytest
import torch
import torchvision

import originals
from segkit import components
from segkit.models.backbones import resnet, resnext
from segkit.models.layers.split_attention import SplitAttention
from segkit.models.layers.squeeze_excitation import SqueezeExcitation

COUNTS = {
    ("resnet", "50"): 25_557_032,
    ("resnet", "101"): 44_549_160,
    ("resnet", "50d"): 25_576_264,
    ("resnet", "101d"): 44_568_392,
    ("resnext", "50_32x4d"): 25_028_904,
    ("resnext", "101_32x8d"): 88_791_336,
    ("se_resnet", "50"): 28_088_024,
    ("se_resnet", "101"): 49_326_872,
    ("sge_resnet", "50"): 25_559_080,
    ("sge_resnet", "101"): 44_553_384,
}
EVERY = [*COUNTS, ("resnet", "50c"), ("resnet", "50s"), ("resnet", "152"), ("sknet", "50"), ("sknet", "101")]


def on_meta(name, variant, num_classes=None, **settings):
    with torch.device("meta"):
        return components.build(
            "models.backbones", {"name": name, "variant": variant, **settings}, num_classes
        )


@pytest.mark.parametrize(("name", "variant"), COUNTS)
def test_parameters_are_the_published_number(name, variant):
    assert sum(p.numel() for p in on_meta(name, variant, 1000).parameters()) == COUNTS[name, variant]


@pytest.mark.parametrize(("variant", "millions"), [("50", 27.5), ("101", 48.9)])
def test_selective_kernel_networks_have_the_millions_of_the_paper(variant, millions):
    count = sum(p.numel() for p in on_meta("sknet", variant, 1000).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.005)  # the paper rounds; 48.74 counted for the 101


@pytest.mark.parametrize(("name", "variant"), EVERY)
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_stages_and_classes_have_their_shapes(name, variant, output_stride):
    network = on_meta(name, variant, 10, output_stride=output_stride).eval()
    image = torch.empty(2, 3, 97, 128, device="meta")
    strides = (4, 8, min(16, output_stride), output_stride)
    expected = [
        (2, c, -(-97 // s), 128 // s) for c, s in zip((256, 512, 1024, 2048), strides, strict=True)
    ]  # fmt: skip
    assert [tuple(stage.shape) for stage in network(image)] == expected
    assert network.out_channels == [256, 512, 1024, 2048]
    assert network.classify(image).shape == (2, 10)


def agree(ours, theirs, *, names=lambda name: name, **settings):
    """Equal class scores and last stage from equal weights, in float32."""
    theirs = originals.randomised(theirs).float()
    ours = on_meta(*ours, 1000, **settings).eval()
    ours.load_state_dict({names(n): t for n, t in theirs.state_dict().items()}, assign=True)
    image = torch.randn(1, 3, 70, 57)
    with torch.inference_mode():
        expected = theirs(image)
        assert (ours.classify(image) - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize(
    ("output_stride", "dilate"),
    [(8, [False, True, True]), (16, [False, False, True]), (32, [False, False, False])],
)
def test_resnets_equal_torchvision_dilated_or_not(output_stride, dilate):
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=dilate)
    agree(("resnet", "50"), theirs, output_stride=output_stride)


def test_resnexts_equal_torchvision():
    theirs = torchvision.models.resnext50_32x4d(replace_stride_with_dilation=[False, True, True])
    agree(("resnext", "50_32x4d"), theirs, output_stride=8)


def selective_names(name):
    """Timm wraps convolution and normalisation in one module; ours keeps the names of the bottleneck."""
    for number in (1, 3):
        name = name.replace(f".conv{number}.conv.", f".conv{number}.")
        name = name.replace(f".conv{number}.bn.", f".bn{number}.")
    return name


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("resnet", "50c"), "resnet50c"),
        (("resnet", "50d"), "resnet50d"),
        (("resnet", "50s"), "resnet50s"),
        (("se_resnet", "50"), "seresnet50"),
        (("sknet", "50"), "skresnext50_32x4d"),
    ],
)
def test_undilated_they_equal_timm(ours, theirs):
    timm = pytest.importorskip("timm", reason="timm, of the extra 'oracles', is the one to agree with")

    def names(name):
        return selective_names(name).replace(".se.", ".attention.")

    agree(ours, timm.create_model(theirs), names=names, output_stride=32)


def test_published_files_are_torchvisions():
    weights = torchvision.models
    assert resnet.PUBLISHED["101"] == weights.ResNet101_Weights.IMAGENET1K_V1.url
    assert resnet.PUBLISHED["152"] == weights.ResNet152_Weights.IMAGENET1K_V1.url
    assert resnext.PUBLISHED["50_32x4d"] == weights.ResNeXt50_32X4D_Weights.IMAGENET1K_V1.url
    assert resnext.PUBLISHED["101_32x8d"] == weights.ResNeXt101_32X8D_Weights.IMAGENET1K_V1.url


def test_split_attention_of_radix_1_is_squeeze_and_excitation():
    torch.manual_seed(0)
    split = SplitAttention(32, radix=1).double().eval()
    excite = SqueezeExcitation(32).double()
    excite.fc1, excite.fc2 = split.fc1, split.fc2
    split.bn1 = torch.nn.Identity()
    x = torch.randn(2, 32, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(split(x), excite(split.relu(split.bn0(split.conv(x)))))


def test_a_thin_network_has_a_thin_stem():
    assert on_meta("resnet", "50s", width=16).conv1[0].out_channels == 16
