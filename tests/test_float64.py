"""A float64 network computes in float64 throughout: no step of it is rounded to float32."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from segkit.config import registry
from segkit.models import segmenter
from segkit.types import Logits

THIN = {"width": 8, "output_stride": 8}
BACKBONES = {
    "resnest": {"name": "resnest", "variant": "14", "drop_block": 0.2, **THIN},
    "fast": {"name": "resnest", "variant": "50_fast_4s2x40d", "blocks": [1, 1, 1, 1], **THIN},
    **{
        unit: {"name": "resnet", "variant": unit, "blocks": [1, 1, 1, 1], **THIN}
        for unit in ("50d", "50_32x4d", "se_50", "cbam_50", "sge_50", "sk_50", "sknet_50")
    },
    "timm": {"name": "timm", "variant": "convnext_atto"},
}
HEADS = [*registry.available("models.heads")]
LOSSES = {
    "cross_entropy": {"class_weights": [0.1, 0.7, 1.0, 1.3, 3.0], "label_smoothing": 0.1},
    "dice": {},
    "focal": {},
    "lovasz": {},
    "ohem": {},
    "mixed": {"parts": {"cross_entropy": {"weight": 0.3}, "dice": {"weight": 0.7}}},
}


class Narrow(TorchDispatchMode):
    """Records the operations whose result is a float narrower than float64."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for result in out if isinstance(out, tuple | list) else [out]:
            random = func is torch.ops.aten.rand.default  # compared with a probability
            if (
                not random
                and torch.is_tensor(result)
                and result.is_floating_point()
                and result.dtype != torch.float64
            ):
                self.names.add(str(func))
        return out


@pytest.mark.medium
@pytest.mark.parametrize(
    ("backbone", "head"),
    [*((name, "deeplabv3") for name in BACKBONES), *(("resnest", head) for head in HEADS)],
)
def test_float64_network_computes_in_float64(backbone, head):
    if backbone == "timm":
        pytest.importorskip("timm")
    model = segmenter.build(5, backbone=BACKBONES[backbone], head={"name": head}).double()
    image = torch.randint(0, 256, (2, 3, 41, 56), dtype=torch.uint8)
    with Narrow() as narrow:
        model(image).main.sum().backward()
    assert narrow.names == set()


@pytest.mark.parametrize("name", [*LOSSES])
@pytest.mark.parametrize("size", [(20, 24), (5, 6)])
def test_float64_loss_computes_in_float64(name, size):
    loss = registry.build("losses", {"name": name, **LOSSES[name]}, num_classes=5).double()
    logits = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    label = torch.randint(0, 5, (2, 20, 24), dtype=torch.uint8)
    with Narrow() as narrow:
        sum(part.sum() for part in loss(Logits(logits, logits), label).values()).backward()
    assert narrow.names == set()


def test_mixed_loss_weights_are_exact_in_float64():
    loss = registry.build("losses", {"name": "mixed", **LOSSES["mixed"]}, num_classes=5)
    logits = torch.randn(2, 5, 6, 6, dtype=torch.float64)
    label = torch.randint(0, 5, (2, 6, 6))
    alone = [
        registry.build("losses", {"name": name}, num_classes=5)(Logits(logits), label)["main"]
        for name in ("cross_entropy", "dice")
    ]
    expected = torch.stack([0.3 * alone[0], 0.7 * alone[1]])
    torch.testing.assert_close(loss(Logits(logits), label)["main"], expected, rtol=1e-13, atol=0)
