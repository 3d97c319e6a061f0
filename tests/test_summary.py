"""What networks cost, against the published operations and counts done by hand."""

from __future__ import annotations

import re

import pytest
import torch

from segkit.config import registry
from segkit.models import segmenter, summary


def on_meta(build, *late, **settings):
    with torch.device("meta"):
        return build(*late, **settings)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "variant", "side", "giga_macs", "tolerance"),
    [
        ("resnest", "14", 224, 2.749, 0.0005),
        ("resnest", "26", 224, 3.623, 0.0005),
        ("resnest", "50", 224, 5.371, 0.0005),
        ("resnest", "101", 256, 13.321, 0.0005),
        ("resnest", "200", 320, 35.520, 0.0005),
        ("resnest", "269", 416, 77.349, 0.0005),
        ("resnet", "sknet_50", 224, 4.47, 0.013),  # rounded in the paper
        ("resnet", "sknet_101", 224, 8.46, 0.025),
    ],
)
def test_classifier_operations_equal_published_numbers(name, variant, side, giga_macs, tolerance):
    settings = {"name": name, "variant": variant, "output_stride": 32}
    network = on_meta(registry.build, "models.backbones", settings, num_classes=1000).eval()
    image = torch.empty(1, 3, side, side, device="meta")
    flops = summary.count_flops(lambda: network.classify(image))
    assert flops / 2e9 == pytest.approx(giga_macs, abs=tolerance)


def deeplab(output_stride=8):
    backbone = {"name": "resnest", "variant": "101", "output_stride": output_stride}
    auxiliary = {"name": "fcn", "stage": 3}
    return on_meta(segmenter.build, 150, backbone=backbone, head={"name": "deeplabv3"}, auxiliary=auxiliary)


@pytest.mark.medium
def test_summary_has_shapes_dilation_and_operations():
    rows = {part.name: part for part in summary.measure_parts(deeplab(), (480, 480))}
    assert rows["stage 3"].shape == (1024, 60, 60)
    assert [rows[f"stage {i}"].stride for i in (1, 2, 3, 4)] == ["4", "8", "8", "8"]
    assert [rows[f"stage {i}"].dilation for i in (1, 2, 3, 4)] == ["1", "1", "1, 2", "2, 4"]
    assert sum(part.parameters for part in rows.values()) == 64_788_364
    giga_flops = sum(part.flops for name, part in rows.items() if name != "auxiliary") / 1e9
    assert giga_flops == pytest.approx(440, abs=1)
    by_hand = 60 * 60 * (1024 * 256 * 9 + 256 * 150)  # the auxiliary head: 3x3 and 1x1
    assert rows["auxiliary"].flops == 2 * by_hand


def test_summary_text_has_parts_and_totals():
    lines = summary.format_summary(deeplab(output_stride=16), (512, 1024)).splitlines()
    assert lines[0] == "one image of 512 x 1024, 150 classes"
    parts = ["stem", "stage 1", "stage 2", "stage 3", "stage 4", "head", "auxiliary", "training", "inference"]
    assert [line.split("  ")[0] for line in lines[2:11]] == parts
    assert "2048 x 32 x 64     16         1, 2" in lines[6]
    assert "64,788,364" in lines[9]
    assert "62,390,006" in lines[10]


@pytest.mark.parametrize("operations", [True, False])
def test_summary_does_not_change_the_model(operations):
    backbone = {"name": "resnest", "variant": "14", "width": 8}
    model = segmenter.build(3, backbone=backbone, head={"name": "fcn"}).train()
    text = summary.format_summary(model, 64, operations=operations)
    assert model.training
    assert all(p.device.type == "cpu" for p in model.parameters())
    assert ("MAC is" in text) == operations
    assert re.search(r"\nstage 4 +256 x 8 x 8 +8 +2 +[\d,]+ ", text)


class Foreign(torch.nn.Module):
    """A backbone that keeps the contract and is no ResNet."""

    out_channels, output_stride = (8, 8, 8, 16), 8

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 8, 8, 8)
        self.mix = torch.nn.Conv2d(8, 16, 1)

    def forward(self, image):
        fine = self.patches(image)
        return [fine, fine, fine, self.mix(fine)]


def build_foreign(backbone):
    head = registry.build("models.heads", {"name": "fcn"}, in_channels=backbone.out_channels, num_classes=5)
    return segmenter.Segmenter(backbone, head, num_classes=5)


def test_foreign_backbone_has_a_summary():
    model = build_foreign(Foreign())
    backbone, last = summary.measure_parts(model, (32, 48))
    assert (backbone.name, backbone.shape, backbone.stride) == ("backbone", (16, 4, 6), "8")
    assert backbone.parameters == (3 * 64 + 1) * 8 + (8 + 1) * 16
    assert backbone.flops == 2 * 24 * (3 * 64 * 8 + 8 * 16)  # 4 x 6 positions, by hand
    assert last.name == "head"


class Windows(Foreign):
    """Reshapes as Swin does, which fails for a batch of no images."""

    def forward(self, image):
        return super().forward(image.reshape(len(image), -1, *image.shape[2:]))


@pytest.mark.parametrize("operations", [True, False])
def test_summary_of_network_that_needs_an_image(operations):
    text = summary.format_summary(build_foreign(Windows()), 32, operations=operations)
    assert re.search(r"\nbackbone +16 x 4 x 4 +8 ", text)


class Particular(Foreign):
    """Looks at the values, which the meta device does not have."""

    def forward(self, image):
        return super().forward(image * float(image.mean().item() >= 0))


def test_summary_without_meta_device_counts_parameters():
    model = build_foreign(Particular())
    count = sum(parameter.numel() for parameter in model.parameters())
    text = summary.format_summary(model, 32)
    assert text.startswith(f"{count:,} parameters; operations are not counted (")
    assert "\n" not in text
