"""Lines printed before the first iteration, and the formats of counts and durations."""

from segkit.monitor import banners
from segkit.runtime.text import format_clock, format_count

BACKBONE = {"name": "resnet", "variant": "50", "weights": "a.pth"}
RULE = {"optimizer": {"name": "sgd"}, "lr_schedule": {"name": "poly"}}
SETTINGS = {
    "data": {"name": "ade20k"},
    "model": {"backbone": BACKBONE, "head": {"name": "fcn"}},
    "schedule": {"epochs": 180, "iterations": None, "batch_size": 16, "lr": 0.01, **RULE},
    "evaluation": {"every": 5},
    "runtime": {"compile": True},
}


def test_banner_describes_network_data_schedule_and_machine():
    text = banners.format_banner(
        SETTINGS,
        parameters=41_200_000,
        train_images=20_210,
        val_images=2_000,
        iterations=227_363,
        done=1_200,
        machine="cpu in bf16",
    )
    for words in (
        "fcn on resnet50: 41.2 million parameters, weights a.pth",
        "20,210 images, 180 epochs = 227,363 iterations of 16, sgd 0.01, poly",
        "validation on 2,000 images every 5 epochs",
        "on cpu in bf16",
        "resumed at iteration 1,200",
        "compiling the network: the first step takes minutes",
    ):
        assert words in text


def test_network_is_named_by_backbone_and_variant():
    def name(**backbone):
        return banners._format_network({"model": {"head": {"name": "fcn"}, "backbone": backbone}})

    assert name(name="resnet", variant="50_32x4d") == "fcn on resnet50_32x4d"
    assert name(name="resnet", variant="sknet_50") == "fcn on resnet sknet_50"
    assert name(name="own") == "fcn on own"


def test_format_clock_rounds_to_seconds():
    assert [format_clock(seconds) for seconds in (0, 61.4, 3599.6)] == ["0:00", "1:01", "1:00:00"]


def test_format_count_uses_the_plural():
    epochs = [format_count(number, "epoch") for number in (1, 2, 0.5, 2000)]
    assert epochs == ["1 epoch", "2 epochs", "0.5 epochs", "2,000 epochs"]
    assert [format_count(number, "class") for number in (0, 1)] == ["0 classes", "1 class"]
