"""Scoring of strips causes no synchronization with the device."""

import numpy as np
import pytest
import torch
from test_protocols import TinySegmenter, random_image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segkit.inference import Protocol, resample
from segkit.inference.sliding import _SlidingWindow, iterate_strips

ENCODING = {"resize": "long_side", "base_size": 64, "flip": True, "border": "pad", "merge": "exp"}
PROTOCOLS = {
    "whole": Protocol(),
    "several scales, flips": Protocol(scales=(0.5, 1.0, 1.5), flip=True),
    "encoding": Protocol(scales=(0.75, 1.25), **ENCODING, window=32),
    "sliding": Protocol(window=24, stride=24),
    "uint8": Protocol(scales=(0.5, 1.3), resize_as="uint8", flip=True),
}


class Waits(TorchDispatchMode):
    """Notes each operation that moves values between the host and the device, or reads one."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        places = {leaf.device.type for leaf in tree_leaves((args, kwargs, found)) if torch.is_tensor(leaf)}
        if len(places) > 1 or "cpu" in places or "_local_scalar_dense" in str(func):
            self.seen.append(str(func))
        return found


@pytest.fixture
def count_queries(monkeypatch):
    """How often the device is asked whether a window was broken; a device without values cannot say."""
    calls = []
    monkeypatch.setattr(_SlidingWindow, "check_finite", lambda self: calls.append(1))
    return calls


@pytest.mark.medium
@pytest.mark.parametrize("name", PROTOCOLS)
def test_strips_cause_no_device_synchronization(name, count_queries, monkeypatch):
    """On a device that is not the host and holds no values: reading one would raise."""
    monkeypatch.setattr(_SlidingWindow, "strip_rows", lambda self: 7)
    if name == "uint8":  # OpenCV resizes the whole image on the host, before the first strip
        resized = lambda image, height, width: image.new_empty(3, height, width)  # noqa: E731
        monkeypatch.setattr(resample, "resize_uint8", resized)
    model = TinySegmenter().eval().to("meta")
    image = torch.empty(3, 90, 61, dtype=torch.uint8, device="meta")
    list(
        iterate_strips(model, image, PROTOCOLS[name])
    )  # taps go to the device with the first image of a size
    count_queries.clear()
    found = iterate_strips(model, image, PROTOCOLS[name])
    first = next(found)
    with Waits() as waits:
        rest = list(found)
    assert (first.top, rest[-1].bottom) == (0, 90)
    assert len(rest) == 12
    assert not waits.seen
    assert len(count_queries) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_of_a_resized_axis_equal_the_complete_axis(dtype):
    draw = np.random.default_rng(0)
    for _ in range(200):
        size, resized = draw.integers(1, 70, 2).tolist()
        align = bool(draw.integers(2))
        values = torch.from_numpy(draw.normal(size=(size, 3, 2))).to(dtype)
        start = int(draw.integers(resized))
        stop = int(draw.integers(start, resized)) + 1
        taps = resample.compute_taps(size, resized, align_corners=align)
        before, after, weight = (torch.from_numpy(part[start:stop]) for part in taps)
        expected = torch.lerp(values[before], values[after], weight.to(dtype).view(-1, 1, 1))
        axis = resample.make_axis_resizer(size, resized, values.device, dtype, align_corners=align)
        first, last = axis.source_range(start, stop)
        assert torch.equal(axis.resize(values[first:last], 0, start, stop, source_start=first), expected)
        across = values.transpose(0, 1).contiguous()
        assert torch.equal(axis.resize(across, 1, start, stop).transpose(0, 1), expected)


@pytest.mark.parametrize("band", [0, 3])
def test_nan_in_any_tile_is_rejected(band):
    """The first windows at once, any other when the image is done."""

    class Breaks(TinySegmenter):
        calls = 0

        def forward(self, image):
            raise AssertionError("its parts are called")

    model = Breaks().eval()
    model.head.register_forward_hook(
        lambda module, given, found: found.fill_(torch.nan) if (model.calls == band) else found
    )
    model.backbone.register_forward_hook(lambda *_: setattr(model, "calls", model.calls + 1))
    model.calls = -1
    image = torch.from_numpy(random_image(96, 24)).permute(2, 0, 1)
    with pytest.raises(ValueError, match="returned NaN or infinity"):
        list(iterate_strips(model, image, Protocol(window=24, stride=24, batch_pixels=1)))
    assert model.calls == (0 if band == 0 else 3)
