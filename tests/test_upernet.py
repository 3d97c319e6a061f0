"""UPerNet: equal to mmsegmentation's UPerHead, with its names, and every command on ConvNeXt and Swin."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import originals
from runs import TIMM
from segkit.config import registry
from segkit.models import segmenter
from segkit.models.checkpoint_formats import convert_names

CHANNELS = (6, 8, 12, 20)


class ConvModule(nn.Module):
    """Convolution, batch normalization, ReLU, with mmcv's names."""

    def __init__(self, in_channels, out_channels, size, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, size, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class MmsegUPerHead(nn.Module):
    """The order of operations and the names of mmseg/models/decode_heads/uper_head.py and psp_head.py."""

    def __init__(self, in_channels, channels, num_classes, align_corners):
        super().__init__()
        self.align_corners = align_corners
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvModule(in_channels[-1], channels, 1))
            for scale in (1, 2, 3, 6)
        )
        self.bottleneck = ConvModule(in_channels[-1] + 4 * channels, channels, 3, padding=1)
        self.lateral_convs, self.fpn_convs = nn.ModuleList(), nn.ModuleList()
        for width in in_channels[:-1]:
            self.lateral_convs.append(ConvModule(width, channels, 1))
            self.fpn_convs.append(ConvModule(channels, channels, 3, padding=1))
        self.fpn_bottleneck = ConvModule(len(in_channels) * channels, channels, 3, padding=1)

    def resize(self, x, size):
        return F.interpolate(x, size=size, mode="bilinear", align_corners=self.align_corners)

    def forward(self, inputs):
        laterals = [conv(inputs[i]) for i, conv in enumerate(self.lateral_convs)]
        x = inputs[-1]
        pooled = [self.resize(module(x), x.shape[2:]) for module in self.psp_modules]
        laterals.append(self.bottleneck(torch.cat([x, *pooled], dim=1)))
        count = len(laterals)
        for i in range(count - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + self.resize(laterals[i], laterals[i - 1].shape[2:])
        outs = [self.fpn_convs[i](laterals[i]) for i in range(count - 1)]
        outs.append(laterals[-1])
        for i in range(count - 1, 0, -1):
            outs[i] = self.resize(outs[i], outs[0].shape[2:])
        return self.conv_seg(self.fpn_bottleneck(torch.cat(outs, dim=1)))


def build_head(align_corners=False, width=7):
    late = {"in_channels": CHANNELS, "num_classes": 5, "align_corners": align_corners, "output_stride": 32}
    return registry.build("models.heads", {"name": "upernet", "width": width, "dropout": 0.0}, **late)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_upernet_head_equals_mmsegmentation(align_corners, training):
    theirs = originals.randomize(MmsegUPerHead(CHANNELS, 7, 5, align_corners)).train(training)
    state = convert_names({f"decode_head.{name}": tensor for name, tensor in theirs.state_dict().items()})
    ours = build_head(align_corners).double()
    ours.load_state_dict({name.removeprefix("head."): tensor for name, tensor in state.items()})
    ours.train(training)
    sizes = ((25, 33), (13, 17), (7, 9), (4, 5))
    stages = [
        torch.randn(2, c, *size, dtype=torch.float64, requires_grad=True)
        for c, size in zip(CHANNELS, sizes, strict=True)
    ]
    expected, logits = theirs(stages), ours(stages)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(expected)
    gradients = [
        torch.autograd.grad((x * weight).sum(), [*stages, *module.parameters()], allow_unused=True)
        for x, module in ((expected, theirs), (logits, ours))
    ]
    for one, other in zip(gradients[0][:4], gradients[1][:4], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-8, atol=1e-8)
    named = zip(theirs.named_parameters(), gradients[0][4:], strict=True)
    of_theirs = convert_names({f"decode_head.{name}": gradient for (name, _), gradient in named})
    for (name, _), gradient in zip(ours.named_parameters(), gradients[1][4:], strict=True):
        torch.testing.assert_close(gradient, of_theirs[f"head.{name}"], rtol=1e-8, atol=1e-8)


def build_network(align_corners=False, **settings):
    backbone = {"name": "resnet", "variant": "50c", "width": 8, "output_stride": 32}
    return segmenter.build(
        5, backbone=backbone, head={"name": "upernet", "width": 7}, align_corners=align_corners, **settings
    )


def test_mmsegmentation_upernet_checkpoint_keeps_its_logits(tmp_path):
    network = originals.randomize(build_network()).float().eval()
    head = originals.randomize(MmsegUPerHead(network.backbone.out_channels, 7, 5, align_corners=False))
    stem = {"conv1.": "stem.", "bn1.": "stem.7."}
    state = {f"decode_head.{name}": tensor for name, tensor in head.float().state_dict().items()}
    for name, tensor in network.backbone.state_dict().items():
        start = next((own for own in stem if name.startswith(own)), "")
        state[f"backbone.{stem.get(start, '')}{name.removeprefix(start)}"] = tensor
    file = tmp_path / "upernet_r50_512x512_80k_ade20k.pth"
    torch.save({"state_dict": state}, file)
    loaded = build_network(weights=str(file)).eval()
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        expected = head.float().eval()(network.backbone(image))
        torch.testing.assert_close(loaded(image, at="head").main, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"Set model.align_corners=false$"):
        build_network(align_corners=True, weights=str(file))


def test_upernet_trains_convnext_and_swin_at_any_size():
    for variant in ("test_convnext", "swin_tiny_patch4_window7_224"):
        backbone = {"name": "timm", "variant": variant}
        model = segmenter.build(3, backbone=backbone, head={"name": "upernet", "width": 8})
        logits = model(torch.randint(0, 256, (2, 3, 45, 70), dtype=torch.uint8)).main
        assert logits.shape == (2, 3, 45, 70)
        logits.square().mean().backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param("test_convnext", marks=pytest.mark.medium),
        pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow),
    ],
)
def test_upernet_works_in_every_command(variant, run_here, tmp_path, capsys):
    upernet = ["model/head=upernet", "model/auxiliary=none", "model.align_corners=false"]
    words = [*TIMM, *upernet, f"model.backbone.variant={variant}", f"run_dir={tmp_path}", "run_name=x"]
    assert run_here("train_seg", *words) == 0
    best = f"checkpoint={tmp_path}/x/best.pt"
    assert run_here("test_seg", best, "evaluation=mmseg", "loader.workers=0") == 0
    assert "mIoU" in capsys.readouterr().out
    image = tmp_path / "a.png"
    Image.fromarray(torch.randint(0, 256, (50, 70, 3), dtype=torch.uint8).numpy()).save(image)
    assert run_here("predict_seg", best, f"input={image}", f"output={tmp_path}/out", "save=[ids]") == 0
    assert list((tmp_path / "out").rglob("a.png"))
    file = tmp_path / "x.onnx"
    assert run_here("export_seg", best, f"output={file}", "image_size=[64,64]") == 0
    assert file.is_file()
