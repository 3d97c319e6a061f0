"""The probes of the attention papers show what is there: units made or trained so that it is known."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from segkit.data.label_map import Entry, LabelMap
from segkit.models.layers.selective_kernel import Kernel, SelectiveKernel
from segkit.models.layers.spatial_group_enhance import SpatialGroupEnhance
from segkit.models.layers.split_attention import SplitAttention
from segkit.types import Sample

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))
probes = importlib.import_module("probes")
sys.path.remove(str(EXAMPLES))


TABLE = LabelMap("discs", (Entry(0, "ground", (1, 2, 3)), Entry(1, "disc", (9, 8, 7))))


class Over(nn.Module):
    """A unit over the values of an image."""

    def __init__(self, *units):
        super().__init__()
        self.units = nn.ModuleList(units)

    def forward(self, image):
        x = image.float() / 255
        for unit in self.units:
            x = unit(x)
        return x


def disc(radius, side=32):
    rows, columns = np.mgrid[:side, :side] - side / 2 + 0.5
    image = np.where(np.hypot(rows, columns) < radius, 255, 0).astype(np.uint8)
    return np.repeat(image[..., None], 3, 2)


@pytest.mark.medium
def test_the_large_kernel_gains_where_its_reach_is_what_large_things_ask_for():
    # One unit, trained for seconds to give the small kernel's answer for small discs and the large one's for
    # large discs. Nothing sets its attention by hand: it has to learn to look at the size.
    torch.manual_seed(0)
    unit = SelectiveKernel(3, kernels=(Kernel(1, 1), Kernel(3, 1)), least_inner=8)
    network = Over(unit).eval()
    images = torch.stack([torch.from_numpy(disc(r).transpose(2, 0, 1).copy()) for r in (3, 4, 5, 10, 12, 14)])
    with torch.no_grad():
        small, large = (path(images.float() / 255) for path in unit.paths)
    wanted = torch.cat([small[:3], large[3:]])
    optimizer = torch.optim.Adam(unit.attn.parameters(), 0.02)
    for _ in range(300):
        optimizer.zero_grad()
        ((network(images) - wanted) ** 2).mean().backward()
        optimizer.step()
    (curve,) = probes.large_kernel(network, [disc(5), disc(6)]).values()
    values = [value for _, value in curve]
    assert [factor for factor, _ in curve] == list(probes.FACTORS)
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.1


def test_what_stands_in_the_middle_grows_by_the_factor():
    for factor in probes.FACTORS:
        area = (probes.enlarged(disc(6, side=64), factor)[..., 0] > 127).sum()
        assert area == pytest.approx(np.pi * (6 * factor) ** 2, rel=0.08)


@pytest.mark.parametrize(("scale", "direction"), [(1.0, 1), (0.0, 0), (-1.0, -1)])
def test_enhancement_raises_the_variation_where_its_scale_is_positive(scale, direction):
    draw = np.random.default_rng(0)
    images = [(255 * draw.random((16, 16, 3)) ** 2).astype(np.uint8) for _ in range(4)]
    curves = probes.enhancement(Over(SpatialGroupEnhance(3, 1, scale=scale)), images)
    ((_, before),), ((_, after),) = curves["before"], curves["after"]
    assert np.sign(round(after - before, 5)) == direction


def test_variation_is_deviation_over_mean_of_the_lengths():
    x = torch.tensor([[3.0, 0.0], [4.0, 10.0]]).view(1, 2, 1, 2)  # one group, vectors of lengths 5 and 10
    assert probes.variation(x, 1) == pytest.approx(np.std([5, 10], ddof=1) / 7.5)


def test_splits_that_follow_the_class_are_apart_and_others_are_not():
    torch.manual_seed(0)
    deaf, keen = SplitAttention(4), SplitAttention(4)
    nn.init.zeros_(deaf.fc2.weight)  # its weights say nothing of the input
    network = Over(nn.Conv2d(3, 4, 1), deaf, keen).eval()
    by_class = {0: [disc(4)], 1: [disc(14)], 2: [disc(15)]}
    weights = probes.split_weights(network, by_class)
    assert [rows.shape for rows in weights.values()] == [(3, 4), (3, 4)]
    first, second = map(probes.apart, weights.values())
    assert first == pytest.approx(0, abs=1e-6)
    assert second > 1e-3
    with torch.inference_mode():  # against the unit itself, asked once
        x = network.units[1](
            network.units[0](torch.from_numpy(disc(4).transpose(2, 0, 1).copy())[None] / 255)
        )
        told = keen.relu(keen.bn0(keen.conv(x))).mean((2, 3), keepdim=True).unflatten(1, (2, -1)).sum(1)
        expected = keen.attention(keen.fc2(keen.relu(keen.bn1(keen.fc1(told)))))[0, 0, :, 0, 0]
    np.testing.assert_allclose(list(weights.values())[1][0], expected.numpy(), rtol=1e-5)


def test_a_class_is_cut_out_with_a_margin():
    label = np.zeros((40, 40), np.uint8)
    label[10:20, 10:18] = 1
    label[30:32, 30:32] = 1  # the smaller part of the class
    image = np.repeat((label * 200)[..., None], 3, 2)
    (cut,) = probes.cut_out([Sample(image, label, "x")], 2)[1]
    assert cut.shape == image.shape
    assert (cut[..., 0] > 100).mean() == pytest.approx(80 / (14 * 12), abs=0.06)


def test_a_row_has_the_name_of_its_class(tmp_path, monkeypatch):
    drawn = []

    def class_rows(weights, names, *, title):
        drawn.append((weights.shape, names))
        return np.zeros((9, 9, 3), np.uint8)

    monkeypatch.setattr(probes, "class_rows", class_rows)
    label = np.where(disc(9)[..., 0] > 0, 1, 255).astype(np.uint8)  # no pixel of class 0
    network = Over(nn.Conv2d(3, 4, 1), SplitAttention(4))
    probes.draw_splits(network, [Sample(disc(9), label, "x")], TABLE, tmp_path / "x.png")
    assert drawn == [((1, 4), ["disc"])]


def test_weights_are_drawn_by_class_and_in_the_order_of_their_mean():
    weights = np.array([[1.0, 0.0, 0.6], [0.8, 0.0, 0.0]])
    picture = probes.class_rows(weights, ["a", "bb"], title="x", width=400)
    viridis = cv2.applyColorMap(np.array([[0, 153, 255, 0, 0, 204]], np.uint8), cv2.COLORMAP_VIRIDIS)[
        0, :, ::-1
    ]
    left, line = probes.overlays.text_width("bb") + 12, probes.overlays.LINE
    third = (400 - left - 8) // 3
    found = [
        picture[line + 4 + line * row + line // 2, left + third * column + third // 2]
        for row in range(2)
        for column in range(3)
    ]
    np.testing.assert_array_equal(found, viridis)


@pytest.mark.parametrize("probe", ["kernels", "enhance", "splits"])
def test_a_network_without_the_attention_is_refused(probe, tmp_path):
    network = Over(nn.Conv2d(3, 2, 1))
    samples = [Sample(disc(5), (disc(5)[..., 0] > 0).astype(np.uint8), "x")]
    with pytest.raises(ValueError, match=r"this network has no \w+; give the checkpoint of one that has"):
        probes.PROBES[probe](network, samples, TABLE, tmp_path / "x.png")


def test_the_figures_are_written(tmp_path):
    units = {"kernels": SelectiveKernel(3, kernels=(Kernel(1, 1), Kernel(2, 1))), "splits": SplitAttention(4)}
    units["enhance"] = SpatialGroupEnhance(3, 1)
    samples = [Sample(disc(r), (disc(r)[..., 0] > 0).astype(np.uint8), f"{r}") for r in (5, 9)]
    for probe, unit in units.items():
        network = Over(*([nn.Conv2d(3, 4, 1)] if probe == "splits" else []), unit)
        assert probes.PROBES[probe](network, samples, TABLE, tmp_path / f"{probe}.png")
        assert (tmp_path / f"{probe}.png").stat().st_size > 1000
