"""Whole networks of torchvision and segmentation_models.pytorch load and say the same."""

from __future__ import annotations

import re

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision.models.segmentation as theirs

from segkit.models import segmenter
from segkit.models.backbones import resnet

AUXILIARY = {"name": "fcn", "stage": 3}


def randomized(network):
    """Random weights and running statistics, so that every tensor has a say."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if "num_batches" in name:
                continue
            if tensor.ndim > 1:
                fan = tensor.numel() / tensor.shape[0]
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan) ** 0.5)
            else:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.5)
    return network.eval()


def saved(network, path):
    torch.save(network.state_dict(), path)
    return str(path)


def ours(head, variant="50", *, output_stride=8, auxiliary=None, first_block="half", **settings):
    backbone = {
        "name": "resnet",
        "variant": variant,
        "output_stride": output_stride,
        "first_block": first_block,
    }
    aspp = {"atrous_rates": [12, 24, 36]} if head != "fcn" else {}
    return segmenter.build(
        6, backbone=backbone, head={"name": head, **aspp}, auxiliary=auxiliary, **settings
    ).eval()


def agree(found, expected):
    scale = expected.abs().max()
    assert expected.std() > 0.01 * scale
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("deeplabv3_resnet50", "deeplabv3"),
        ("fcn_resnet50", "fcn"),
        pytest.param("deeplabv3_resnet101", "deeplabv3", marks=pytest.mark.slow),
        pytest.param("fcn_resnet101", "fcn", marks=pytest.mark.slow),
    ],
)
def test_networks_of_torchvision_give_their_logits(name, head, tmp_path):
    variant = name.removeprefix("deeplabv3_").removeprefix("fcn_").removeprefix("resnet")
    network = getattr(theirs, name)(weights=None, weights_backbone=None, num_classes=6, aux_loss=True)
    path = saved(randomized(network), tmp_path / "x.pth")
    model = ours(head, variant, auxiliary=AUXILIARY, align_corners=False, weights=path)
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        expected = network(image)
        stages = model.backbone(image)
        agree(model(image).main, expected["out"])
        agree(model.resize(model.auxiliary(stages), image), expected["aux"])
    if head == "deeplabv3":
        message = r"this is torchvision's DeepLabV3, which .* model/head=deeplabv3 model.align_corners=false "
        with pytest.raises(ValueError, match=message + r"model.backbone.output_stride=8$"):
            ours(head, variant, auxiliary=AUXILIARY, output_stride=16, weights=path)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("kind", "output_stride"),
    [("DeepLabV3", 8), ("DeepLabV3Plus", 16), ("DeepLabV3", 16), ("DeepLabV3Plus", 8)],
)
def test_networks_of_smp_give_their_logits(kind, output_stride, tmp_path):
    network = getattr(smp, kind)(
        "resnet50", encoder_weights=None, classes=6, encoder_output_stride=output_stride
    )
    path = saved(randomized(network), tmp_path / "x.pth")
    head = {"DeepLabV3": "deeplabv3", "DeepLabV3Plus": "deeplabv3plus_smp"}[kind]
    model = ours(head, output_stride=output_stride, first_block="full", weights=path)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        agree(model(image).main, network(image))
    name = re.escape(kind.replace("Plus", "+"))
    with pytest.raises(ValueError, match=rf"is smp's {name}, .*head={head} model.backbone.first_block=full$"):
        ours(head, output_stride=output_stride, weights=path)


@pytest.mark.medium
def test_older_files_of_smp_have_numbers_for_names(tmp_path):
    network = randomized(smp.DeepLabV3("resnet50", encoder_weights=None, classes=6))
    state = network.state_dict()
    for number, part in enumerate(("aspp", "conv", "bn")):
        state = {re.sub(rf"^decoder\.{part}\.", f"decoder.{number}.", n): t for n, t in state.items()}
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    model = ours("deeplabv3", first_block="full", weights=str(tmp_path / "x.pth"))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        agree(model(image).main, network(image))


@pytest.mark.medium
def test_the_encoder_of_any_network_of_theirs_is_a_backbone(tmp_path):
    network = smp.Unet("resnet50", encoder_weights=None, decoder_channels=(8, 8, 8, 8, 8))
    path = saved(network, tmp_path / "x.pth")
    loaded = resnet.build(variant="50", weights=path)
    assert torch.equal(loaded.layer4[2].conv3.weight, network.encoder.layer4[2].conv3.weight)
    with pytest.raises(ValueError, match=r"this is another network of smp; of .*backbone.weights=FILE"):
        ours("deeplabv3", weights=path)
    network = theirs.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    path = saved(network, tmp_path / "y.pth")
    with pytest.raises(ValueError, match=r"network of torchvision on another backbone than ResNet; of both"):
        ours("deeplabv3", weights=path)


@pytest.mark.medium
def test_every_key_of_theirs_is_accounted_for(tmp_path):
    network = theirs.fcn_resnet50(weights=None, weights_backbone=None, num_classes=6)
    state = network.state_dict()
    state["classifier.9.weight"] = state.pop("classifier.0.weight")
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"1 missing in the file: head.conv5.0.weight;") as told:
        ours("fcn", align_corners=False, weights=str(tmp_path / "x.pth"))
    assert "1 not in the model: head.conv5.9.weight" in str(told.value)
