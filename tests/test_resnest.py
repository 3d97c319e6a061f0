"""ResNeSt against the published counts, names, and its dilation block by block."""

from __future__ import annotations

import pytest
import torch

from segkit.models.backbones import resnest

BLOCKS = {  # variant: blocks, parameters with 1000 classes
    "14": ((1, 1, 1, 1), 10_611_688),
    "26": ((2, 2, 2, 2), 17_069_448),
    "50": ((3, 4, 6, 3), 27_483_240),
    "101": ((3, 4, 23, 3), 48_275_016),
    "200": ((3, 24, 36, 3), 70_201_544),
    "269": ((3, 30, 48, 8), 110_929_480),
}


def on_meta(variant: str, num_classes: int | None = None, **settings):
    with torch.device("meta"):
        return resnest.build(num_classes, variant=variant, **settings)


@pytest.mark.parametrize("variant", BLOCKS)
def test_parameters_are_the_published_number(variant):
    network = on_meta(variant, 1000)
    assert sum(p.numel() for p in network.parameters()) == BLOCKS[variant][1]


@pytest.mark.parametrize("variant", BLOCKS)
def test_each_stage_has_its_blocks(variant):
    network = on_meta(variant)
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    assert tuple(len(stage) for stage in stages) == BLOCKS[variant][0]


def test_names_are_those_of_the_published_weights():
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    expected = {f"conv1.{i}.weight" for i in (0, 3, 6)}
    expected |= {f"{place}.{name}" for place in ("conv1.1", "conv1.4", "bn1") for name in norm}
    for s in (1, 2, 3, 4):
        block = f"layer{s}.0"
        expected |= {f"{block}.{conv}.weight" for conv in ("conv1", "conv2.conv", "conv3", "downsample.1")}
        expected |= {f"{block}.conv2.{fc}.{name}" for fc in ("fc1", "fc2") for name in ("weight", "bias")}
        norms = ("bn1", "bn3", "conv2.bn0", "conv2.bn1", "downsample.2")
        expected |= {f"{block}.{place}.{name}" for place in norms for name in norm}
    assert set(on_meta("14").state_dict()) == expected
    assert set(on_meta("14", 10).state_dict()) == expected | {"fc.weight", "fc.bias"}


# output stride -> for each stage: stride and dilation of its first block, dilation of the others
DILATION = {
    32: [(1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)],
    16: [(1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2)],
    8: [(1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)],
}


@pytest.mark.parametrize("output_stride", DILATION)
def test_every_block_has_the_published_stride_dilation_padding_and_pool(output_stride):
    network = on_meta("50", output_stride=output_stride)
    for s, (stride, first, rest) in enumerate(DILATION[output_stride], start=1):
        for i, block in enumerate(getattr(network, f"layer{s}")):
            conv = block.conv2.conv
            dilation = first if i == 0 else rest
            assert (conv.stride, conv.dilation, conv.padding) == (
                (1, 1),
                (dilation, dilation),
                (dilation, dilation),
            )
            if i == 0 and s > 1:  # the pool stays where dilation replaced the stride
                assert (block.pool.kernel_size, block.pool.stride, block.pool.padding) == (3, stride, 1)
                assert not block.pool_first
            else:
                assert block.pool is None
            assert (block.downsample is not None) == (i == 0)
            if i == 0:
                pool = block.downsample[0]
                assert (getattr(pool, "kernel_size", 1), getattr(pool, "stride", 1)) == (stride, stride)
                assert block.downsample[1].stride == (1, 1)


@pytest.mark.parametrize(("side", "cells"), [(480, 60), (512, 64), (513, 65), (769, 97)])
def test_feature_sizes_at_output_stride_8(side, cells):
    stages = on_meta("14").eval()(torch.empty(1, 3, side, side, device="meta"))
    quarter = -(-side // 4)
    assert [tuple(s.shape) for s in stages] == [
        (1, 256, quarter, quarter), (1, 512, cells, cells), (1, 1024, cells, cells), (1, 2048, cells, cells)
    ]  # fmt: skip


def test_an_unknown_output_stride_is_refused():
    with pytest.raises(ValueError, match="output_stride 7 is not one of 8, 16, 32"):
        resnest.build(variant="14", output_stride=7)


def test_classifying_without_a_classifier_says_how_to_get_one():
    with pytest.raises(ValueError, match="build it with num_classes"):
        on_meta("14").classify(torch.empty(1, 3, 32, 32, device="meta"))


def test_initial_convolutions_have_the_published_deviation():
    torch.manual_seed(0)
    network = resnest.build(variant="14")
    conv = network.layer4[0].conv2.conv  # 1024 filters in 2 groups: groups do not count
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 1024)) ** 0.5, rel=0.01)
    assert network.layer4[0].bn3.weight.eq(1).all()
