"""What is said before the first iteration."""

import subprocess
import sys

import pytest

from segkit.monitor import banners
from segkit.runtime.wording import write_count

SETTINGS = {
    "data": {"name": "ade20k"},
    "model": {
        "backbone": {"name": "resnet", "variant": "50", "weights": "a.pth"},
        "head": {"name": "fcn"},
    },
    "schedule": {
        "epochs": 180,
        "iterations": None,
        "batch_size": 16,
        "lr": 0.01,
        "optimizer": {"name": "sgd"},
        "lr_schedule": {"name": "poly"},
    },
    "evaluation": {"every": 5},
    "runtime": {"compile": True},
}
FACTS = banners.RunFacts(
    41_200_000,
    train_images=20_210,
    val_images=2_000,
    iterations=227_363,
    done=1_200,
    device="cpu",
    precision="bf16",
)


def test_the_banner_tells_network_data_length_machine_and_where_the_run_stands():
    said = banners.format_banner(SETTINGS, FACTS)
    for words in (
        "fcn on resnet50: 41.2 million parameters, weights a.pth",
        "20,210 images, 180 epochs = 227,363 iterations of 16, sgd 0.01, poly",
        "validation on 2,000 images every 5 epochs",
        "on cpu in bf16",
        "resumed at iteration 1,200",
        "compiling the network: the first step takes minutes",
    ):
        assert words in said


def test_the_first_line_comes_before_torch_is_imported():
    words = "import sys, segkit.monitor.banners; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(20, "less than a minute"), (420, "7 min"), (5 * 3600 + 720, "5 h 12 min"), (76 * 3600, "3 days 4 h")],
)
def test_durations_are_told_in_two_units(seconds, shown):
    assert banners.duration(seconds) == shown


@pytest.mark.parametrize(
    ("backbone", "told"),
    [
        ({"name": "resnet", "variant": "50_32x4d"}, "fcn on resnet50_32x4d"),
        ({"name": "resnet", "variant": "sknet_50"}, "fcn on resnet sknet_50"),
        ({"name": "own"}, "fcn on own"),
    ],
)
def test_a_network_is_named_by_its_backbone_and_variant(backbone, told):
    assert banners._network({"model": {"head": {"name": "fcn"}, "backbone": backbone}}) == told


@pytest.mark.parametrize(
    ("number", "written"),
    [(1, "1 epoch"), (2, "2 epochs"), (0, "0 epochs"), (0.5, "0.5 epochs"), (2000, "2,000 epochs")],
)
def test_counts_are_written_in_the_right_form(number, written):
    assert write_count(number, "epoch") == written
