"""Heads: DeepLabV3+, PSPNet, FCN on any stage, and the alignment they are given."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import originals
from segkit.config import registry
from segkit.models.heads.pspnet import pool_to_grid

CHANNELS = (16, 32, 64, 128)
SIZES = ((20, 17), (10, 9), (10, 9), (10, 9))


def head(name: str, *, align_corners: bool = True, **settings):
    late = {"in_channels": CHANNELS, "num_classes": 5, "output_stride": 8, "align_corners": align_corners}
    return registry.build("models.heads", {"name": name, **settings}, **late)


def stages():
    torch.manual_seed(1)
    return [torch.randn(2, c, *size, dtype=torch.float64) for c, size in zip(CHANNELS, SIZES, strict=True)]


@pytest.mark.parametrize("grid", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(6, 6), (60, 60), (7, 11), (2, 1)])
def test_grid_pooling_equals_adaptive_average_pooling(grid, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(pool_to_grid(x, grid), F.adaptive_avg_pool2d(x, grid), rtol=0, atol=1e-14)


@pytest.mark.parametrize("align_corners", [True, False])
def test_pspnet_equals_network_in_plain_functions(align_corners):
    module = originals.randomize(head("pspnet", align_corners=align_corners))
    state, x = module.state_dict(), stages()[-1]
    out = [x]
    for i, grid in enumerate((1, 2, 3, 6), start=1):  # the names of PyTorch-Encoding
        name = f"conv5.0.conv{i}"
        pooled = originals.conv_norm_relu(state, f"{name}.0", f"{name}.1", F.adaptive_avg_pool2d(x, grid))
        out.append(F.interpolate(pooled, x.shape[2:], mode="bilinear", align_corners=align_corners))
    x = originals.conv_norm_relu(state, "conv5.1", "conv5.2", torch.cat(out, 1), padding=1)
    torch.testing.assert_close(module(stages()), originals.conv(state, "conv5.5", x))


@pytest.mark.parametrize("align_corners", [True, False])
def test_deeplabv3plus_equals_network_in_plain_functions(align_corners):
    module = originals.randomize(head("deeplabv3plus", width=8, fine_width=6, align_corners=align_corners))
    state, given = module.state_dict(), stages()
    coarse = module.aspp(given[-1])
    coarse = F.interpolate(coarse, SIZES[0], mode="bilinear", align_corners=align_corners)
    fine = originals.conv_norm_relu(state, "fine.0", "fine.1", given[0])
    x = torch.cat([coarse, fine], 1)
    for i in (0, 1):
        x = originals.conv_norm_relu(state, f"decoder.{i}.0", f"decoder.{i}.1", x, padding=1)
    logits = module(given)
    assert logits.shape == (2, 5, *SIZES[0])
    torch.testing.assert_close(logits, originals.conv(state, "decoder.3", x))


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_fcn_reads_the_given_stage(stage):
    module = originals.randomize(head("fcn", stage=stage))
    assert module.conv5[0].out_channels == CHANNELS[stage - 1] // 4
    expected = originals.encoding_fcn_head(module.state_dict(), "conv5", stages()[stage - 1])
    torch.testing.assert_close(module(stages()), expected)


@pytest.mark.parametrize("name", ["deeplabv3", "deeplabv3_mmseg", "deeplabv3plus", "pspnet"])
def test_pooling_heads_reject_training_batch_of_one(name):
    one = [stage[:1] for stage in stages()]
    with pytest.raises(ValueError, match=r"batch of one image .* at least two images"):
        head(name).double().train()(one)
    assert head(name).double().eval()(one).isfinite().all()


def test_fcn_trains_with_batch_of_one():
    assert head("fcn").double().train()([stage[:1] for stage in stages()]).isfinite().all()
