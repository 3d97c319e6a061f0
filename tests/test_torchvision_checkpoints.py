"""Checkpoints of torchvision's segmentation networks."""

from __future__ import annotations

import pytest
import torch
import torchvision.models.segmentation as reference

import originals
from originals import save
from segkit.models import segmenter
from segkit.models.backbones import resnet

AUXILIARY = {"name": "fcn", "stage": 3}


def build(head, variant="50", *, output_stride=8, auxiliary=None, **settings):
    backbone = {"name": "resnet", "variant": variant, "output_stride": output_stride}
    aspp = {"atrous_rates": [12, 24, 36]} if head != "fcn" else {}
    return segmenter.build(
        6, backbone=backbone, head={"name": head, **aspp}, auxiliary=auxiliary, **settings
    ).eval()


def assert_close(logits, expected):
    scale = expected.abs().max()
    assert expected.std() > 0.01 * scale
    torch.testing.assert_close(logits / scale, expected / scale, rtol=0, atol=1e-5)


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
def test_torchvision_networks_keep_their_logits(name, head, tmp_path):
    variant = name.removeprefix("deeplabv3_").removeprefix("fcn_").removeprefix("resnet")
    network = getattr(reference, name)(weights=None, weights_backbone=None, num_classes=6, aux_loss=True)
    network = originals.randomize(network).float()
    path = save(network, tmp_path / "x.pth")
    model = build(head, variant, auxiliary=AUXILIARY, align_corners=False, weights=path)
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        expected = network(image)
        stages = model.backbone(image)
        assert_close(model(image).main, expected["out"])
        assert_close(model.resize(model.auxiliary(stages), image), expected["aux"])
    if head == "deeplabv3":
        message = r"contains torchvision's DeepLabV3, .* Set model.align_corners=false .*output_stride=8$"
        with pytest.raises(ValueError, match=message):
            build(head, variant, auxiliary=AUXILIARY, output_stride=16, weights=path)


def test_unsupported_networks_load_as_backbone_only(tmp_path):
    encoder = resnet.build(variant="50", width=8)
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state["segmentation_head.0.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "smp.pth")
    with pytest.raises(ValueError, match=r"segmentation_models.pytorch, .*\. model.backbone.weights=FILE"):
        build("deeplabv3", weights=str(tmp_path / "smp.pth"))
    loaded = resnet.build(variant="50", width=8, weights=str(tmp_path / "smp.pth"))
    assert torch.equal(loaded.layer4[2].conv3.weight, encoder.layer4[2].conv3.weight)
    network = reference.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    path = save(network, tmp_path / "y.pth")
    with pytest.raises(ValueError, match=r"a torchvision network on another backbone than ResNet"):
        build("deeplabv3", weights=path)
