"""Protocols of mmsegmentation against plain transcriptions of mmcv and mmsegmentation."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from test_protocols import (
    SCALES,
    SIZES,
    TINY,
    K,
    TinySegmenter,
    normalize_image,
    one_thread,
    random_image,
    resize,
)

from segkit.config.compose import compose_settings
from segkit.inference import Protocol, predict, predict_probabilities

__all__ = ["one_thread"]  # a fixture


def scale_size(size, scale):
    """mmcv.image.geometric._scale_size, of (w, h)."""
    w, h = size
    pair = scale if isinstance(scale, tuple) else (scale, scale)
    return int(w * float(pair[0]) + 0.5), int(h * float(pair[1]) + 0.5)


def rescale_size(size, bounds):
    """mmcv.rescale_size for (w, h) bounds, which ``imrescale`` calls."""
    w, h = size
    factor = min(max(bounds) / max(h, w), min(bounds) / min(h, w))
    return scale_size((w, h), factor)


def factor_size(size, factor):
    """mmcv.transforms.Resize(scale_factor=factor, keep_ratio=True): the factor becomes bounds first."""
    return rescale_size(size, scale_size(size, (factor, factor)))


def score_like_mmseg(model, image, sizes, *, flip=False, window=None, stride=None):
    """slide_inference or whole_inference, postprocess_result and SegTTAModel.merge_preds; (K, H, W)."""
    height, width = image.shape[:2]
    total = 0
    for w, h in sizes:
        y = normalize_image(model, cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR))
        for mirrored in (False, True) if flip else (False,):
            z = y.flip(3) if mirrored else y
            logits = model(z).main if window is None else slide_inference(model, z, window, stride)
            logits = logits.flip(3) if mirrored else logits
            total = total + resize(logits, height, width, model.align_corners).softmax(1)
    return (total / (len(sizes) * (1 + flip)))[0]


def slide_inference(model, z, window, stride):
    h, w = z.shape[2:]
    out, count = torch.zeros(1, K, h, w, dtype=z.dtype), torch.zeros(1, 1, h, w, dtype=z.dtype)
    for i in range(max(h - window + stride - 1, 0) // stride + 1):
        for j in range(max(w - window + stride - 1, 0) // stride + 1):
            bottom, right = min(i * stride + window, h), min(j * stride + window, w)
            top, left = max(bottom - window, 0), max(right - window, 0)
            out[:, :, top:bottom, left:right] += model(z[:, :, top:bottom, left:right]).main
            count[:, :, top:bottom, left:right] += 1
    return out / count


def sizes_like_ade20k(count=3000):
    draw = np.random.default_rng(0)
    return [(int(w), int(h)) for w, h in draw.integers(96, 1400, (count, 2))]


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0])
def test_scaled_size_equals_mmcv(factor):
    how = Protocol(scales=[factor])
    for w, h in sizes_like_ade20k():
        assert how.scaled_size(h, w, factor) == factor_size((w, h), factor)[::-1], (w, h)


@pytest.mark.parametrize("bounds", [(2048, 512), (2048, 1024), (2560, 640)])
def test_size_within_bounds_equals_mmcv(bounds):
    how = Protocol(resize="bounds", bounds=bounds)
    for w, h in sizes_like_ade20k():
        assert how.scaled_size(h, w, 1.0) == rescale_size((w, h), bounds)[::-1], (w, h)
    assert how.scaled_size(375, 500, 0.5) == rescale_size((500, 375), (bounds[0] // 2, bounds[1] // 2))[::-1]


def test_image_of_one_row_keeps_it_at_any_scale():
    for kind in ("factor", "bounds"):
        how = Protocol(resize=kind, bounds=(2, 1))
        assert min(how.scaled_size(1, 1000, 0.1)) == 1


def compose_protocol(*words):
    section = compose_settings("test", ["model=deeplabv3_demo", *words])["evaluation"]
    section.pop("every", None)
    return Protocol(**section)


@pytest.mark.parametrize(
    ("data", "size", "expected"),
    [
        ("ade20k", (683, 512), (683, 512)),
        ("ade20k", (256, 341), (512, 682)),
        ("ade20k", (300, 1500), (410, 2048)),
        ("cityscapes", (1024, 2048), (1024, 2048)),
    ],
)
def test_mmseg_uses_one_scale_within_the_bounds(data, size, expected):
    how = compose_protocol(f"data={data}", "evaluation=mmseg")
    assert [how.scaled_size(*size, scale) for scale in how.scales] == [expected]
    assert (how.window, how.flip, how.absent) == (None, False, "exclude")


CASES = [
    *(("mmseg", size) for size in SIZES),
    *(("mmseg_ms", size) for size in [*SIZES[:6], (71, 201), (201, 71)]),
    *(("mmseg_slide", size) for size in [(48, 64), (64, 48), (95, 41), (120, 31)]),
]


@pytest.mark.medium
@pytest.mark.parametrize(("name", "size"), CASES)
def test_protocols_equal_mmsegmentation(name, size):
    words, options = ["data=ade20k", "evaluation.bounds=[160,70]"], {}
    sizes = [rescale_size(size[::-1], (160, 70))]
    if name == "mmseg_ms":
        words, options = ["data=ade20k"], {"flip": True}
        sizes = [factor_size(size[::-1], factor) for factor in SCALES]
    elif name == "mmseg_slide":
        words, options = ["data=cityscapes", "evaluation.bounds=[100,60]"], {"window": 33, "stride": 22}
        words += ["evaluation.window=33", "evaluation.stride=22"]
        sizes = [rescale_size(size[::-1], (100, 60))]
    how = compose_protocol(*words, f"evaluation={name}")
    model = TinySegmenter(align_corners=name == "mmseg_slide").double().eval()
    image = random_image(*size)
    with torch.inference_mode():
        expected = score_like_mmseg(model, image, sizes, **options)
    found = predict_probabilities(model, image, how)
    torch.testing.assert_close(found, expected, rtol=TINY, atol=TINY)
    assert torch.equal(predict(model, image, how).long(), expected.argmax(0))


def test_mmseg_slide_has_windows_of_769():
    how = compose_protocol("data=cityscapes", "evaluation=mmseg_slide")
    assert (how.window, how.stride, how.align_corners) == ((769, 769), (513, 513), True)


def test_protocol_text_has_bounds_and_resizing():
    assert str(compose_protocol("data=ade20k", "evaluation=mmseg")).startswith(
        "mmseg (scales 1 of bounds 2048x512, resized as uint8, merge softmax"
    )
