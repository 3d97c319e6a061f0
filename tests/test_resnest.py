"""ResNeSt against the published counts and names, and timm; its dilation is in test_weights.py."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F

import originals
from segkit.models.backbones import resnest
from segkit.models.layers.drop_block import DropBlock

BLOCKS = {  # variant: blocks, parameters with 1000 classes
    "14": ((1, 1, 1, 1), 10_611_688),
    "26": ((2, 2, 2, 2), 17_069_448),
    "50": ((3, 4, 6, 3), 27_483_240),
    "101": ((3, 4, 23, 3), 48_275_016),
    "200": ((3, 24, 36, 3), 70_201_544),
    "269": ((3, 30, 48, 8), 110_929_480),
    "50_fast_1s1x64d": ((3, 4, 6, 3), 26_217_896),
    "50_fast_2s1x64d": ((3, 4, 6, 3), 27_483_240),
    "50_fast_4s1x64d": ((3, 4, 6, 3), 31_912_712),
    "50_fast_1s2x40d": ((3, 4, 6, 3), 25_946_680),
    "50_fast_2s2x40d": ((3, 4, 6, 3), 26_943_792),
    "50_fast_4s2x40d": ((3, 4, 6, 3), 30_417_592),
    "50_fast_1s4x24d": ((3, 4, 6, 3), 25_677_000),
    "50_mmseg": ((3, 4, 6, 3), 27_483_240),
    "101_mmseg": ((3, 4, 23, 3), 48_275_016),
}
TIMM = {"14": "resnest14d", "50_fast_4s2x40d": "resnest50d_4s2x40d", "101": "resnest101e"}


def on_meta(variant: str, num_classes: int | None = None, **settings):
    with torch.device("meta"):
        return resnest.build(num_classes, variant=variant, **settings)


@pytest.mark.parametrize("variant", BLOCKS)
def test_resnest_has_published_blocks_and_parameter_count(variant):
    network = on_meta(variant, 1000)
    blocks, parameters = BLOCKS[variant]
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    assert tuple(len(stage) for stage in stages) == blocks
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_unknown_output_stride_is_rejected():
    with pytest.raises(ValueError, match="output_stride=7: must be one of 8, 16, 32"):
        resnest.build(variant="14", output_stride=7)


def test_classify_without_classifier_is_rejected():
    with pytest.raises(ValueError, match="Build it with num_classes"):
        on_meta("14").classify(torch.empty(1, 3, 32, 32, device="meta"))


@pytest.mark.medium
@pytest.mark.parametrize("variant", TIMM)
def test_undilated_resnest_equals_timm(variant):
    theirs = originals.randomize(timm.create_model(TIMM[variant])).float()
    ours = on_meta(variant, 1000, output_stride=32).eval()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    image = torch.randn(1, 3, 70, 57)
    with torch.inference_mode():
        pairs = [(ours.classify(image), theirs(image)), (ours(image)[-1], theirs.forward_features(image))]
    for found, expected in pairs:
        assert (found - expected).norm() < 1e-5 * expected.norm()


def test_zero_last_gamma_makes_block_its_shortcut():
    network = resnest.build(variant="26", width=8, last_gamma=0.0).eval()
    block = network.layer1[1]
    x = torch.rand(1, 32, 6, 6)
    assert torch.equal(block(x), x)


def test_drop_block_follows_norms_of_stages_3_and_4():
    network = on_meta("26", drop_block=0.1)
    found = {name for name, module in network.named_modules() if isinstance(module, DropBlock)}
    expected = {f"layer{s}.{i}.{place}" for s in (3, 4) for i in (0, 1) for place in ("drop", "conv2.drop")}
    assert found == expected
    assert not any(isinstance(module, DropBlock) for module in on_meta("26").modules())


def test_drop_block_drops_squares_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropBlock(0.1, 3)
    x = torch.ones(8, 64, 32, 32)
    out = drop.train()(x)
    dropped = out == 0
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.01)  # blocks overlap: a little below
    assert out.mean().item() == pytest.approx(1, abs=1e-4)
    whole = F.avg_pool2d(dropped.float(), 3, 1).eq(1).float()  # where a full square was dropped
    covered = F.max_pool2d(F.pad(whole, [2] * 4), 3, 1).bool()
    assert torch.equal(covered, dropped)
    assert torch.equal(drop.eval()(x), x)
    tiny = torch.ones(1, 1, 2, 2)
    assert torch.equal(drop.train()(tiny), tiny)  # smaller than a block


def test_initial_convolutions_have_published_std():
    torch.manual_seed(0)
    network = resnest.build(variant="14")
    conv = network.layer4[0].conv2.conv  # 1024 filters in 2 groups: groups do not count
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 1024)) ** 0.5, rel=0.01)
    assert network.layer4[0].bn3.weight.eq(1).all()


@pytest.mark.parametrize(
    ("variant", "given"),
    [
        ("50_fast_4s2x40d", {"radix": 4, "cardinality": 2, "bottleneck_width": 40, "pool": "before"}),
        ("50_mmseg", {"pool": "strided"}),
    ],
)
def test_published_variant_equals_its_explicit_settings(variant, given):
    published = originals.randomize(resnest.build(4, variant=variant, width=16))
    free = originals.randomize(resnest.build(4, variant="50", width=16, **given))
    image = torch.randn(1, 3, 40, 33, dtype=torch.float64)
    free.load_state_dict(published.state_dict())
    with torch.inference_mode():
        assert torch.equal(published.classify(image), free.classify(image))


def test_resnest_with_plain_stem_shortcut_and_pool():
    network = on_meta("50", stem_width=0, average_down=False, pool="none", reduction=8, radix=1)
    assert network.conv1.kernel_size == (7, 7)
    block = network.layer2[0]
    assert (block.pool, block.conv2.conv.stride, block.downsample[0].stride) == (None, (2, 2), (2, 2))
    assert network.layer4[0].conv2.fc1.out_channels == 512 // 8
    assert on_meta("50", stem_width=48).conv1[0].out_channels == 48
