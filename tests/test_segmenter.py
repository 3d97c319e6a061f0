"""The segmenter: published sizes, one shape in and out, and what it does with odd images."""

from __future__ import annotations

import pytest
import torch

from segkit.models import segmenter

DEEPLAB = {"name": "deeplabv3"}
AUXILIARY = {"name": "fcn", "stage": 3}


def tiny(
    num_classes: int = 5, *, head=None, auxiliary=None, output_stride: int = 8, **settings
) -> segmenter.Segmenter:
    backbone = {"name": "resnest", "variant": "14", "width": 8, "output_stride": output_stride}
    head = head or {"name": "deeplabv3", "width": 8}
    return segmenter.build(num_classes, backbone=backbone, head=head, auxiliary=auxiliary, **settings)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("variant", "without", "with_auxiliary"),
    [("50", 41.60, 44.00), ("101", 62.39, 64.79), ("200", 84.32, 86.71), ("269", 125.04, 127.44)],
)
def test_deeplabv3_has_published_parameter_count(variant, without, with_auxiliary):
    backbone = {"name": "resnest", "variant": variant}
    for auxiliary, millions in ((None, without), (AUXILIARY, with_auxiliary)):
        with torch.device("meta"):
            model = segmenter.build(150, backbone=backbone, head=DEEPLAB, auxiliary=auxiliary)
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == pytest.approx(
            millions, abs=0.0051
        )


@pytest.mark.parametrize(("output_stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])])
def test_atrous_rates_follow_the_output_stride(output_stride, rates):
    aspp = tiny(output_stride=output_stride).head.aspp
    assert [branch[0].dilation[0] for branch in (aspp.b1, aspp.b2, aspp.b3)] == rates


def test_atrous_rates_must_be_three():
    aspp = tiny(head={"name": "deeplabv3", "width": 8, "atrous_rates": [1, 2, 3]}).head.aspp
    assert [branch[0].dilation[0] for branch in (aspp.b1, aspp.b2, aspp.b3)] == [1, 2, 3]
    with pytest.raises(ValueError, match=r"atrous_rates=\[6, 12\]: three values are needed"):
        tiny(head={"name": "deeplabv3", "width": 8, "atrous_rates": [6, 12]})


def test_auxiliary_logits_exist_in_training_only():
    model = tiny(auxiliary=AUXILIARY)
    image = torch.randint(0, 256, (2, 3, 33, 47), dtype=torch.uint8)
    trained = model.train()(image)
    assert trained.main.shape == trained.aux.shape == (2, 5, 33, 47)
    assert model.eval()(image).aux is None


def test_model_normalizes_uint8_images():
    model = tiny().eval()
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    by_hand = (image / 255 - mean) / std
    assert torch.equal(model.normalize(image), by_hand)
    torch.testing.assert_close(model(image).main, model(by_hand).main)
    assert "mean" not in model.state_dict()


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 64)])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_tiny_images_have_logits_of_their_size(size, output_stride):
    out = tiny(output_stride=output_stride).eval()(torch.zeros(1, 3, *size, dtype=torch.uint8)).main
    assert out.shape == (1, 5, *size)
    assert out.isfinite().all()


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (0, 3, 8, 8), (1, 3, 0, 8)])
def test_wrong_image_shapes_are_rejected(shape):
    with pytest.raises(ValueError, match=r"must be \(B, 3, H, W\) with at least one pixel"):
        tiny()(torch.zeros(shape))


@pytest.mark.parametrize("num_classes", [0, 32768])
def test_number_of_classes_must_fit_int16(num_classes):
    with pytest.raises(ValueError, match=rf"num_classes={num_classes}: must be in 1\.\.32767"):
        tiny(num_classes)
