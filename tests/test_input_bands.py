"""Images of any number of bands: the first convolutions, and what published weights of RGB become."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from originals import save
from segkit import inference
from segkit.config import registry
from segkit.models import segmenter, stems, summary

THIN = [
    {"name": "resnest", "variant": "14", "width": 8},
    {"name": "resnet", "variant": "50", "width": 8},
    {"name": "timm", "variant": "repvgg_a0"},  # two convolutions read the image
    {"name": "timm", "variant": "convnext_atto"},  # whose image is padded first
]


def build_model(backbone, bands=3, **settings):
    head = {"name": "fcn", "width": 8}
    colors = {"mean": (0.5,) * bands, "std": (0.25,) * bands}
    return segmenter.build(4, backbone=backbone, head=head, **colors, **settings).eval()


@pytest.mark.medium
@pytest.mark.parametrize("bands", [1, 13])
@pytest.mark.parametrize("backbone", THIN, ids=lambda b: b["variant"])
def test_network_of_any_bands_trains_and_predicts(backbone, bands):
    model = build_model(backbone, bands).train()
    assert model.in_channels == bands
    image = torch.randint(0, 256, (2, bands, 33, 40), dtype=torch.uint8)
    model(image).main.sum().backward()
    assert all(conv.weight.grad.shape[1] == bands for conv in stems.input_convs(model.backbone).values())
    fast = inference.prepare(model.eval())
    array = image[0].permute(1, 2, 0).numpy()
    ids = inference.predict(fast, array, inference.Protocol(scales=(1.0, 1.5), flip=True, window=(32, 32)))
    assert ids.shape == (33, 40)
    assert "one image of 32 x 32" in summary.format_summary(model, 32)
    with pytest.raises(ValueError, match=rf"this network takes \(H, W, {bands}\) arrays"):
        inference.predict(model, np.zeros((8, 8, 3), np.uint8), inference.Protocol())


@pytest.mark.medium
@pytest.mark.parametrize("bands", [1, 4])
@pytest.mark.parametrize("backbone", THIN, ids=lambda b: b["variant"])
@pytest.mark.parametrize("whole", [False, True])
def test_mean_rule_equals_rgb_network_on_gray_images(backbone, bands, whole, tmp_path, caplog):
    caplog.set_level(logging.INFO, "segkit")
    rgb = build_model(backbone)
    if whole:
        wide = build_model(backbone, bands, weights=save(rgb, tmp_path / "x.pth"))
    else:
        trunk = save(rgb.backbone.body if backbone["name"] == "timm" else rgb.backbone, tmp_path / "x.pth")
        wide = build_model({**backbone, "weights": trunk}, bands)
        wide.head = rgb.head
    assert f"adapted from 3 to {bands} bands (model.stem_weights=mean)" in caplog.text
    gray = torch.randint(0, 256, (1, 1, 40, 56), dtype=torch.uint8)
    with torch.no_grad():
        expected = rgb(gray.expand(-1, 3, -1, -1)).main
        found = wide(gray.expand(-1, bands, -1, -1)).main
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("bands", [2, 5])
def test_first_three_rule_keeps_rgb_filters(bands, tmp_path):
    rgb = build_model(THIN[0])
    path = save(rgb, tmp_path / "x.pth")
    wide = build_model(THIN[0], bands, weights=path, stem_weights="first_three").backbone.conv1[0].weight
    published = rgb.backbone.conv1[0].weight
    assert torch.equal(wide[:, :3], published[:, :bands])
    if bands > 3:
        assert 0.5 < wide[:, 3:].std() / published.std() < 2
        image = torch.rand(1, bands, 32, 32)
        image[:, 3:] = 0  # bands of their mean everywhere
        kept = build_model(THIN[0], bands, weights=path, stem_weights="first_three")
        torch.testing.assert_close(kept(image).main, rgb(image[:, :3]).main, rtol=1e-4, atol=1e-5)


def test_fresh_rule_replaces_all_filters(tmp_path):
    rgb = build_model(THIN[1])
    wide = build_model(THIN[1], 4, weights=save(rgb, tmp_path / "x.pth"), stem_weights="fresh")
    mine, published = wide.backbone.conv1.weight, rgb.backbone.conv1.weight
    assert not any(torch.equal(mine[:, i], published[:, j]) for i in range(4) for j in range(3))
    assert 0.5 < mine.std() / published.std() < 2
    assert torch.equal(wide.backbone.layer1[0].conv1.weight, rgb.backbone.layer1[0].conv1.weight)


@pytest.mark.medium
@pytest.mark.parametrize("backbone", THIN, ids=lambda b: b["variant"])
def test_weights_of_equal_bands_load_unchanged(backbone, tmp_path):
    trained = build_model(backbone, 5)
    path = save(trained, tmp_path / "x.pth")
    for again in (build_model(backbone, 5, weights=path), build_model({**backbone, "weights": path}, 5)):
        for name, conv in stems.input_convs(again.backbone).items():
            assert torch.equal(conv.weight, trained.backbone.get_submodule(name).weight)
    with pytest.raises(ValueError, match=r"model.mean has 4 values, but \S+ of this .* reads 5 bands"):
        build_model({**backbone, "weights": path}, 4)


def test_rule_does_not_matter_for_three_bands(tmp_path):
    path = save(build_model(THIN[0]), tmp_path / "x.pth")
    loaded = [
        build_model(THIN[0], weights=path, stem_weights=rule).state_dict() for rule in ("mean", "fresh")
    ]
    assert all(torch.equal(tensor, loaded[1][name]) for name, tensor in loaded[0].items())


def test_every_band_needs_mean_and_std():
    settings = {"backbone": THIN[0], "head": {"name": "fcn"}}
    with pytest.raises(ValueError, match=r"model.mean has 4 values, model.std has 3, "):
        segmenter.build(4, **settings, mean=(0.5,) * 4)
    with pytest.raises(ValueError, match=r"shape \(1, 3, 8, 8\): must be \(B, 2, H, W\)"):
        build_model(THIN[0], 2)(torch.zeros(1, 3, 8, 8))


def test_input_convolutions_are_found_in_every_family():
    for name, variant in (("resnet", "se_50"), ("resnet", "sknet_50"), ("resnest", "50")):
        thin = registry.build("models.backbones", {"name": name, "variant": variant, "width": 6})
        assert [conv.in_channels for conv in stems.input_convs(thin).values()] == [3]
        assert thin.training
