"""The probes of the attention papers show what is there: units made or trained so that it is known."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from segkit.data.label_map import Entry, LabelMap
from segkit.models.layers.selective_kernel import SelectiveKernel
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


@pytest.mark.parametrize("probe", ["kernels", "enhance", "splits"])
def test_probe_rejects_network_without_its_attention(probe, tmp_path):
    network = Over(nn.Conv2d(3, 2, 1))
    samples = [Sample(disc(5), (disc(5)[..., 0] > 0).astype(np.uint8), "x")]
    with pytest.raises(ValueError, match=r"this network has no \w+\. Use the checkpoint"):
        probes.PROBES[probe](network, samples, TABLE, tmp_path / "x.png")


def test_probes_write_figures(tmp_path):
    units = {"kernels": SelectiveKernel(3, kernels=((1, 1), (2, 1))), "splits": SplitAttention(4)}
    units["enhance"] = SpatialGroupEnhance(3, 1)
    samples = [Sample(disc(r), (disc(r)[..., 0] > 0).astype(np.uint8), f"{r}") for r in (5, 9)]
    for probe, unit in units.items():
        network = Over(*([nn.Conv2d(3, 4, 1)] if probe == "splits" else []), unit)
        assert probes.PROBES[probe](network, samples, TABLE, tmp_path / f"{probe}.png")
        assert (tmp_path / f"{probe}.png").stat().st_size > 1000
