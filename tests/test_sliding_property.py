"""Random protocols and images against a loop over complete images at full size."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_protocols import (
    TINY,
    K,
    TinySegmenter,
    inference,
    normalize_image,
    one_thread,
    random_image,
    resize,
    score_image,
)

from segkit.inference import Protocol, predict_probabilities
from segkit.inference.sliding import iterate_strips

__all__ = ["one_thread"]  # a fixture


def list_windows(length, window, stride, border):
    """Return (start, stop) of each window along one axis, shifted back inside or cut at the border."""
    found = []
    for index in range(max(0, math.ceil((length - window) / stride)) + 1):
        start, stop = index * stride, min(index * stride + window, length)
        found.append((max(stop - window, 0) if border == "shift" else start, stop))
    return found


def score_at_full_size(model, image, how):
    """Return probabilities (K, H, W) from all views, windows and sums at full size."""
    height, width = image.shape[:2]
    x = normalize_image(model, image)
    black = (-model.mean / model.std)[None]
    align, exp = how["align_corners"], how["merge"] == "exp"
    total = 0
    for scale in how["scales"]:
        h, w = Protocol(**how).scaled_size(height, width, scale)
        y = resize(x, h, w, align)
        for mirrored in (False, True) if how["flip"] and not exp else (False,):
            z = y.flip(3) if mirrored else y
            tall, wide = how["window"] or (h, w)
            down, across = how["stride"] or (1, 1)
            out, count = torch.zeros(1, K, h, w).to(x), torch.zeros(1, 1, h, w).to(x)
            for top, bottom in list_windows(h, tall, down, how["border"]):
                for left, right in list_windows(w, wide, across, how["border"]):
                    part = z[:, :, top:bottom, left:right]
                    if how["border"] == "pad":
                        canvas = black.expand(1, 3, tall, wide).clone()
                        canvas[:, :, : bottom - top, : right - left] = part
                        part = canvas
                    logits = model(part).main
                    if exp and how["flip"]:
                        logits = logits + model(part.flip(3)).main.flip(3)
                    logits = logits.exp() if exp else logits
                    out[:, :, top:bottom, left:right] += logits[:, :, : bottom - top, : right - left]
                    count[:, :, top:bottom, left:right] += 1
            assert count.min() >= 1
            merged = resize(out / count, height, width, align)
            merged = merged.flip(3) if mirrored else merged
            total = total + (merged.softmax(1) if how["merge"] == "softmax" else merged)
    if how["merge"] == "logits":
        total = total.softmax(1)
    return (total / total.sum(1, keepdim=True))[0]


@st.composite
def protocol_settings(draw):
    """Draw the settings of a protocol without its name."""
    border = draw(st.sampled_from(["shift", "pad"]))
    window = draw(st.none() | st.tuples(st.integers(5, 40), st.integers(5, 40)))
    stride = window and tuple(draw(st.integers(max(2, side // 3), side)) for side in window)
    return {
        "scales": draw(st.lists(st.sampled_from([0.5, 0.75, 1.0, 1.3, 1.75]), min_size=1, max_size=3)),
        "resize": draw(st.sampled_from(["factor", "long_side"])),
        "base_size": draw(st.integers(20, 60)),
        "flip": draw(st.booleans()),
        "window": window,
        "stride": stride,
        "border": border,
        "merge": draw(st.sampled_from(["exp", "softmax", "logits"])),
        "align_corners": draw(st.booleans()),
    }


SHAPES = st.tuples(st.integers(1, 90), st.integers(1, 90)) | st.tuples(
    st.integers(40, 110), st.integers(3, 40)
)


@pytest.mark.medium
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(how=protocol_settings(), shape=SHAPES, rows=st.integers(1, 40), batch=st.sampled_from([1, 3000, None]))
def test_strips_equal_full_size_computation(how, shape, rows, batch):
    model = TinySegmenter(align_corners=how["align_corners"]).double().eval()
    image = random_image(*shape)
    with torch.inference_mode():
        expected = score_at_full_size(model, image, how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference._SlidingWindow, "strip_rows", lambda _: rows)
        found = predict_probabilities(model, image, Protocol(**how, batch_pixels=batch))
    torch.testing.assert_close(found, expected, rtol=TINY, atol=TINY)


PORTRAIT = {"scales": [1.0, 1.5], "flip": True, "window": 60, "stride": 37}


@pytest.mark.medium
@pytest.mark.parametrize("merge", ["exp", "softmax", "logits"])
def test_scores_do_not_depend_on_strip_size_or_memory(merge, monkeypatch):
    model, image = TinySegmenter().eval(), random_image(170, 41)
    at_once = score_image(model, image, Protocol(**PORTRAIT, merge=merge))
    for memory in (1e-6, 1e-4, 1e-3, 1.0):
        how = Protocol(**PORTRAIT, merge=merge, memory=memory, batch_pixels=10**6)
        torch.testing.assert_close(score_image(model, image, how), at_once, rtol=1e-5, atol=1e-5)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    assert len(list(iterate_strips(model, pixels, Protocol(**PORTRAIT, merge=merge, memory=1e-6)))) == 170
    for room in (1, 30_000, 100_000, 10**9):
        monkeypatch.setitem(inference.STRIP_BYTES, "cpu", room)
        assert torch.equal(score_image(model, image, Protocol(**PORTRAIT, merge=merge)), at_once)
