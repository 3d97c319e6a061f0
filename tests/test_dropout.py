"""Dropout draws the same mask whatever the memory layout, the precision and the compiler."""

import pytest
import torch
from torch import nn

from segkit import training
from segkit.config import registry
from segkit.models import segmenter
from segkit.models.layers.dropout import Dropout, fix_dropout_masks
from segkit.types import Batch

BACKBONE = {"name": "resnest", "variant": "14", "width": 8, "output_stride": 8, "drop_block": 0.1}
HEADS = ["deeplabv3", "deeplabv3_mmseg", "deeplabv3plus", "fcn", "pspnet"]


def find_dropped(module, x):
    torch.manual_seed(3)
    return module.train()(x) == 0


@pytest.mark.parametrize("kind", [Dropout, nn.Dropout2d])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_mask_ignores_layout_and_dtype(kind, dtype):
    x = torch.ones(2, 6, 9, 7)
    expected = find_dropped(kind(0.4), x)
    assert 0 < expected.float().mean() < 1
    last = x.to(dtype).contiguous(memory_format=torch.channels_last)
    assert torch.equal(find_dropped(kind(0.4), last), expected)
    assert kind(0.4).train()(last).is_contiguous(memory_format=torch.channels_last)


def test_dropout_equals_pytorch_dropout_on_contiguous_maps():
    x, results = torch.randn(2, 6, 9, 7, dtype=torch.float64), []
    for module in (nn.Dropout(0.3), Dropout(0.3)):
        torch.manual_seed(3)
        given = x.clone().requires_grad_()
        out = module(given)
        out.square().sum().backward()
        results.append((out.detach(), given.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_probability_zero_and_one(p):
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    out = Dropout(p)(x)
    out.sum().backward()
    assert torch.equal(out, x if p == 0 else torch.zeros_like(x))
    assert torch.equal(x.grad, torch.full_like(x, 1 - p))
    assert Dropout(0.5).eval()(x) is x


def test_dropout_of_other_modules_is_replaced():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.Dropout(0.2), nn.Dropout2d(0.2)))
    fix_dropout_masks(model)
    assert type(model[1][0]) is Dropout
    assert model[1][0].p == 0.2
    assert type(model[1][1]) is nn.Dropout2d


class PluginHead(nn.Module):
    """A head of a plug-in, with PyTorch's own dropout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(256, 5, 1))

    def forward(self, stages):
        return self.layers(stages[-1])


def train(head, **runtime):
    """Losses and weights of two training steps in float64."""
    torch.manual_seed(0)
    model = segmenter.build(5, backbone=BACKBONE, head={"name": "fcn" if head == "plugin" else head})
    if head == "plugin":
        model.head = PluginHead()
    run = training.setup_training(
        model.double(),
        registry.build("losses", {"name": "cross_entropy"}, num_classes=5),
        samples=2,
        schedule=training.Schedule(
            batch_size=2, lr=0.1, iterations=3, optimizer={"name": "sgd"}, lr_schedule={"name": "constant"}
        ),
        runtime=training.Runtime(**runtime),
        device=torch.device("cpu"),
        seed=0,
    )
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 3, 41, 56), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, 5, (2, 41, 56), dtype=torch.uint8, generator=generator)
    losses = [training.train_step(run, [Batch(image, label, ["", ""])]).losses["main"] for _ in range(2)]
    return [*losses, *run.model.parameters()]


@pytest.mark.medium
@pytest.mark.parametrize("head", [*HEADS, "plugin"])
def test_channels_last_changes_only_rounding(head):
    found = zip(train(head, channels_last=True), train(head, channels_last=False), strict=True)
    for last, first in found:
        torch.testing.assert_close(last, first, rtol=1e-8, atol=1e-10)
