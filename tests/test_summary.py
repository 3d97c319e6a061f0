"""What networks cost, against the published operations and counts done by hand."""

from __future__ import annotations

import pytest
import torch

from segkit.config import registry
from segkit.models import segmenter, summary


def on_meta(build, *late, **settings):
    with torch.device("meta"):
        return build(*late, **settings)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "variant", "side", "giga_macs"),
    [
        ("resnest", "14", 224, 2.749),
        ("resnest", "26", 224, 3.623),
        ("resnest", "50", 224, 5.371),
        ("resnest", "101", 256, 13.321),
        ("resnest", "200", 320, 35.520),
        ("resnest", "269", 416, 77.349),
    ],
)
def test_classifier_operations_equal_published_numbers(name, variant, side, giga_macs):
    settings = {"name": name, "variant": variant, "output_stride": 32}
    network = on_meta(registry.build, "models.backbones", settings, num_classes=1000).eval()
    image = torch.empty(1, 3, side, side, device="meta")
    assert round(summary.count_flops(lambda: network.classify(image)) / 2e9, 3) == giga_macs


@pytest.mark.medium
@pytest.mark.parametrize(("variant", "giga_macs"), [("50", 4.47), ("101", 8.46)])
def test_sknet_operations_equal_the_paper(variant, giga_macs):
    settings = {"name": "resnet", "variant": f"sknet_{variant}", "output_stride": 32}
    network = on_meta(registry.build, "models.backbones", settings, num_classes=1000).eval()
    macs = summary.count_flops(lambda: network.classify(torch.empty(1, 3, 224, 224, device="meta"))) / 2e9
    assert macs == pytest.approx(giga_macs, rel=0.003)


def deeplab(variant="101", **settings):
    backbone = {"name": "resnest", "variant": variant, **settings}
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
    text = summary.format_summary(deeplab(output_stride=16), (512, 1024))
    lines = text.splitlines()
    assert lines[0] == "one image of 512 x 1024, 150 classes"
    assert [line.split("  ")[0] for line in lines[2:8]] == [
        "stem",
        *(f"stage {i}" for i in (1, 2, 3, 4)),
        "head",
    ]
    assert "2048 x 32 x 64     16         1, 2" in text
    assert [line.split()[0] for line in lines[8:11]] == ["auxiliary", "training", "inference"]
    assert "64,788,364" in text
    assert "62,390,006" in text


def test_summary_does_not_change_the_model():
    backbone = {"name": "resnest", "variant": "14", "width": 8}
    model = segmenter.build(3, backbone=backbone, head={"name": "fcn"}, auxiliary=None).train()
    text = summary.format_summary(model, 64)
    assert model.training
    assert all(p.device.type == "cpu" for p in model.parameters())
    assert "\ntotal " in text


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


def test_foreign_backbone_has_a_summary():
    head = registry.build("models.heads", {"name": "fcn"}, in_channels=Foreign.out_channels, num_classes=5)
    model = segmenter.Segmenter(Foreign(), head, num_classes=5)
    assert model.eval()(torch.zeros(1, 3, 32, 48)).main.shape == (1, 5, 32, 48)
    backbone, last = summary.measure_parts(model, (32, 48))
    assert (backbone.name, backbone.shape, backbone.stride) == ("backbone", (16, 4, 6), "8")
    assert backbone.parameters == (3 * 64 + 1) * 8 + (8 + 1) * 16
    assert backbone.flops == 2 * 24 * (3 * 64 * 8 + 8 * 16)  # 4 x 6 positions, by hand
    assert last.name == "head"
    assert "\nbackbone " in summary.format_summary(model, (32, 48))


class Particular(Foreign):
    """Looks at the values, which the meta device does not have."""

    def forward(self, image):
        return super().forward(image * float(image.mean().item() >= 0))


def test_summary_without_meta_device_counts_parameters():
    head = registry.build("models.heads", {"name": "fcn"}, in_channels=Foreign.out_channels, num_classes=5)
    model = segmenter.Segmenter(Particular(), head, num_classes=5)
    count = sum(parameter.numel() for parameter in model.parameters())
    text = summary.format_summary(model, 32)
    assert text.startswith(f"{count:,} parameters; operations are not counted (")
    assert "\n" not in text


def test_summary_without_operations_has_other_columns():
    backbone = {"name": "resnest", "variant": "14", "width": 8}
    model = segmenter.build(3, backbone=backbone, head={"name": "fcn"})
    counted, uncounted = (
        summary.format_summary(model, 64, operations=each).splitlines() for each in (True, False)
    )
    assert "FLOP" not in "".join(uncounted)
    assert [line.rstrip() for line in counted[1:-1]] != uncounted[1:]
    assert all(line.startswith(short) for line, short in zip(counted[:-1], uncounted, strict=True))
