"""Published weights: read safely, renamed, every key accounted for, the same logits as the original."""

from __future__ import annotations

import collections
import re
import zipfile

import numpy as np
import pytest
import torch

import originals
from originals import save
from segkit.models import segmenter, weights
from segkit.models.backbones import resnest
from segkit.models.heads import fcn

BACKBONE = {"name": "resnest", "variant": "26", "width": 8}
AUXILIARY = {"name": "fcn", "stage": 3}
ENCODING_NAMES = [(r"^backbone\.", "pretrained."), (r"^auxiliary\.", "auxlayer.")]
MMSEG_NAMES = [
    (r"^backbone\.conv1\.", "backbone.stem."),
    (r"^backbone\.bn1\.", "backbone.stem.7."),
    (r"^head\.aspp\.b4\.gap\.1\.", "decode_head.image_pool.1.conv."),
    (r"^head\.aspp\.b4\.gap\.2\.", "decode_head.image_pool.1.bn."),
    (r"^head\.aspp\.b(\d)\.0\.", r"decode_head.aspp_modules.\1.conv."),
    (r"^head\.aspp\.b(\d)\.1\.", r"decode_head.aspp_modules.\1.bn."),
    (r"^head\.aspp\.project\.0\.", "decode_head.bottleneck.conv."),
    (r"^head\.aspp\.project\.1\.", "decode_head.bottleneck.bn."),
    (r"^head\.classifier\.1\.", "decode_head.conv_seg."),
    (r"^auxiliary\.conv5\.0\.", "auxiliary_head.convs.0.conv."),
    (r"^auxiliary\.conv5\.1\.", "auxiliary_head.convs.0.bn."),
    (r"^auxiliary\.conv5\.4\.", "auxiliary_head.conv_seg."),
]


def model(head: str = "deeplabv3", variant: str = "26", *, classes: int = 7, auxiliary=AUXILIARY, **settings):
    heads = {"deeplabv3": {"width": 8}, "deeplabv3_mmseg": {"width": 8}, "fcn": {}}
    backbone = {**BACKBONE, "variant": variant}
    return segmenter.build(
        classes, backbone=backbone, head={"name": head, **heads[head]}, auxiliary=auxiliary, **settings
    )


def rename_state(names, state):
    """Return the state dict under other names."""
    out = {}
    for name, tensor in state.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        out[name] = tensor
    return out


@pytest.fixture
def image():
    return torch.randn(1, 3, 65, 90, dtype=torch.float64)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_dilated_resnest_equals_network_in_plain_functions(output_stride, image):
    network = originals.randomize(resnest.build(variant="26", width=8, output_stride=output_stride))
    naive = originals.resnest(network.state_dict(), "", image, output_stride=output_stride)
    for ours, theirs in zip(network(image), naive, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("head", ["deeplabv3", "fcn"])
def test_pytorch_encoding_checkpoints_keep_their_logits(head, image, tmp_path):
    original = originals.randomize(model(head))
    state = rename_state(ENCODING_NAMES, original.state_dict())
    assert {name.split(".")[0] for name in state} == {"pretrained", "head", "auxlayer"}
    loaded = model(head, weights=save(state, tmp_path / "x.pth")).double().eval()
    forward = {"deeplabv3": originals.encoding_deeplab, "fcn": originals.encoding_fcn}[head]
    torch.testing.assert_close(loaded(image).main, forward(state, image), rtol=1e-5, atol=1e-5)
    stage3 = originals.resnest(state, "pretrained.", image)[2]
    aux = originals.encoding_fcn_head(state, "auxlayer.conv5", stage3)
    torch.testing.assert_close(loaded.auxiliary(loaded.backbone(image)), aux, rtol=1e-5, atol=1e-5)


@pytest.mark.medium
def test_mmsegmentation_checkpoints_keep_their_logits(image, tmp_path, monkeypatch):
    monkeypatch.setitem(resnest.VARIANTS, "26_mmseg", resnest.VARIANTS["26"]._replace(pool="strided"))
    settings = {"head": "deeplabv3_mmseg", "variant": "26_mmseg", "align_corners": False}
    state = originals.randomize(model(**settings)).state_dict()
    state = rename_state(MMSEG_NAMES, state)
    assert {n.split(".")[0] for n in state} == {"backbone", "decode_head", "auxiliary_head"}
    path = save({"meta": {"CLASSES": ["a"]}, "state_dict": state}, tmp_path / "x.pth")
    loaded = model(**settings, weights=path).double().eval()
    torch.testing.assert_close(
        loaded(image).main, originals.mmseg_deeplab(state, image), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ValueError, match="has no pool in its dilated stages"):
        model("deeplabv3_mmseg", align_corners=False, weights=path)
    with pytest.raises(ValueError, match=r"Set model.align_corners=false$"):
        model("deeplabv3_mmseg", "26_mmseg", weights=path)
    with pytest.raises(ValueError, match=r"Set model/head=deeplabv3_mmseg$"):
        model("deeplabv3", "26_mmseg", align_corners=False, weights=path)


def save_wrapped(state, tmp_path, how):
    if how == "bare":
        return save(state, tmp_path / "x.pth")
    if how == "old file format":
        torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
        return str(tmp_path / "x.pth")
    if how == "of several processes":
        return save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "x.pth")
    content = {"state_dict": state, "optimizer": {"param_groups": []}, "best_pred": np.float64(0.4)}
    inside = save(content, tmp_path / "deeplab.pth")
    if how == "in a zip made on macOS":
        with zipfile.ZipFile(tmp_path / "deeplab.zip", "w") as archive:
            archive.write(inside, "folder/deeplab.pth")
            archive.writestr("__MACOSX/folder/._deeplab.pth", b"resource fork")
        return str(tmp_path / "deeplab.zip")
    return inside


HOW = ["bare", "old file format", "of several processes", "with its history", "in a zip made on macOS"]


@pytest.mark.parametrize("how", HOW)
def test_state_dict_is_found_in_known_wrappers(how, tmp_path):
    original = model()
    state = collections.OrderedDict(rename_state(ENCODING_NAMES, original.state_dict()))
    loaded = model(weights=save_wrapped(state, tmp_path, how)).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in original.state_dict().items())


@pytest.mark.medium
def test_segkit_checkpoint_loads_its_ema(tmp_path):
    last, average = model(), model()
    content = {"format": 1, "model": last.state_dict(), "average": average.state_dict()}
    loaded = model(weights=save(content, tmp_path / "x.pt"))
    assert torch.equal(loaded.head.block[4].weight, average.head.block[4].weight)
    loaded = model(weights=save({**content, "average": None}, tmp_path / "y.pt"))
    assert torch.equal(loaded.head.block[4].weight, last.head.block[4].weight)


def test_damaged_weights_files_are_rejected(tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save(model().state_dict(), whole)
    damaged = {"cut": whole.read_bytes()[:100_000], "empty": b"", "text": b"<html>404</html>"}
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        message = rf"{name}: (damaged|not a PyTorch file|refused, because it is damaged)"
        with pytest.raises(ValueError, match=message):
            model(weights=str(tmp_path / name))


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {"epoch": 3}}])
def test_file_without_state_dict_is_rejected(content, tmp_path):
    with pytest.raises(ValueError, match="no state dict in this file"):
        model(weights=save(content, tmp_path / "x.pth"))


def test_zip_with_several_checkpoints_is_rejected(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.pth", b"")
        archive.writestr("b.pth", b"")
    with pytest.raises(ValueError, match=r"several checkpoints: a.pth, b.pth"):
        model(weights=str(tmp_path / "x.zip"))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_zips_are_rejected(method, tmp_path):
    save({f"layer{i}.weight": torch.randn(64, 32) for i in range(3)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.write(tmp_path / "x.pth", "x.pth")
    content = (tmp_path / "x.zip").read_bytes()
    for at in range(60, len(content), len(content) // 20):
        (tmp_path / "x.zip").write_bytes(content[:at] + bytes(200) + content[at + 200 :])
        with pytest.raises(ValueError, match=r"x.zip: (damaged|refused, because it is damaged)"):
            weights.read_weights_file(tmp_path / "x.zip")


def test_mismatched_keys_are_listed(tmp_path):
    state = model().state_dict()
    state["head.block.9.weight"] = state.pop("head.block.0.weight")
    state["backbone.bn1.bias"] = torch.zeros(3)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        model(weights=save(state, tmp_path / "x.pth"))
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/x.pth: weights of another network",
        "  1 missing in the file: head.block.0.weight; 1 not in the model: head.block.9.weight;"
        " 1 of another shape: backbone.bn1.bias (3,) for (8,)",
    ]


def test_other_number_of_classes_suggests_backbone_weights(tmp_path):
    path = save(rename_state(ENCODING_NAMES, model(classes=9).state_dict()), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"4 of another shape(.|\n)*model.backbone.weights=FILE"):
        model(weights=path)
    network = resnest.build(variant="26", width=8, weights=path)
    assert torch.equal(network.bn1.weight, torch.load(path)["pretrained.bn1.weight"])


def test_auxiliary_head_may_be_missing_in_model_only(tmp_path):
    path = save(model().state_dict(), tmp_path / "with.pth")
    assert model(weights=path, auxiliary=None).auxiliary is None
    path = save(model(auxiliary=None).state_dict(), tmp_path / "without.pth")
    with pytest.raises(ValueError, match=r"missing in the file: auxiliary(.|\n)*model/auxiliary=none"):
        model(weights=path)


def test_converted_names_must_be_unique(tmp_path):
    state = model().state_dict()
    state["pretrained.bn1.bias"] = state["backbone.bn1.bias"]
    with pytest.raises(ValueError, match=r"are both called backbone.bn1.bias"):
        model(weights=save(state, tmp_path / "x.pth"))


def test_classifier_loads_if_the_backbone_has_one(tmp_path):
    classifier = resnest.build(10, variant="14", width=8)
    path = save(classifier.state_dict(), tmp_path / "x.pth")
    kept = resnest.build(10, variant="14", width=8, weights=path)
    assert torch.equal(kept.fc.weight, classifier.fc.weight)
    assert resnest.build(variant="14", width=8, weights=path).fc is None
    with pytest.raises(ValueError, match=r"fc.bias \(10,\) for \(11,\)"):
        resnest.build(11, variant="14", width=8, weights=path)


def test_num_batches_tracked_may_be_missing(tmp_path):
    state = resnest.build(variant="14", width=8).state_dict()
    state = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    resnest.build(variant="14", width=8, weights=save(state, tmp_path / "x.pth"))


def test_cached_imagenet_weights_are_verified(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path))
    here = tmp_path / "weights" / "resnest101-22405ba7.pth"
    here.parent.mkdir()
    here.write_bytes(b"something else")
    with pytest.raises(ValueError, match=rf"{here}: delete the file .* has the sha256 \w+ and not 22405ba7"):
        resnest.build(variant="101", width=8, weights="imagenet")
    with pytest.raises(ValueError, match="imagenet: no weights are published for this network"):
        resnest.build(variant="101", width=8, pool="before", weights="imagenet")


class StemBackbone(torch.nn.Module):
    """A backbone with a part that has the name of one of mmsegmentation's."""

    out_channels, output_stride = (4, 4, 4, 4), 4

    def __init__(self):
        super().__init__()
        self.stem, self.fc = torch.nn.Conv2d(3, 4, 4, 4), None

    def forward(self, image):
        return [self.stem(image)] * 4


def test_checkpoint_of_backbone_with_a_stem_loads(tmp_path):
    first, second = (
        segmenter.Segmenter(StemBackbone(), fcn.build([4] * 4, 3), num_classes=3) for _ in range(2)
    )
    weights.load_segmenter(second, save(first.state_dict(), tmp_path / "x.pth"))
    assert torch.equal(second.backbone.stem.weight, first.backbone.stem.weight)


def test_own_head_rejects_a_foreign_checkpoint(tmp_path):
    path = save({"backbone.layer4.x": torch.zeros(1), "classifier.y": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"torchvision's FCN, .* Set model/head=fcn"):
        weights.load_segmenter(segmenter.Segmenter(StemBackbone(), StemBackbone(), num_classes=4), path)


def test_model_weights_replace_backbone_weights(tmp_path):
    path = save(model().state_dict(), tmp_path / "x.pth")
    backbone = {**BACKBONE, "weights": "imagenet"}
    head = {"name": "deeplabv3", "width": 8}
    segmenter.build(7, backbone=backbone, head=head, auxiliary=AUXILIARY, weights=path)


# ---- mmsegmentation: settings that tensors do not show

CONFIG = """norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    backbone=dict(
        type='ResNetV1c',
        dilations={dilations},
        strides={strides},
        contract_dilation=True{grid}),
    decode_head=dict(
        type='ASPPHead',
        dilations=(1, 12, 24, 36),
        align_corners={align}),
    auxiliary_head=dict(type='FCNHead', align_corners={align}))
"""
AT_8 = {"dilations": "(1, 1, 2, 4)", "strides": "(1, 2, 1, 1)", "grid": ""}
AT_16 = {"dilations": "(1, 1, 1, 2)", "strides": "(1, 2, 2, 1)", "grid": ",\n        multi_grid=(1, 2, 4)"}


def mmseg_resnet(**settings):
    """A thin ResNet-50 c with mmsegmentation's head."""
    more = {key: settings.pop(key) for key in ("output_stride", "multi_grid") if key in settings}
    backbone = {"name": "resnet", "variant": "50c", "width": 8, **more}
    head = {"name": "deeplabv3_mmseg", "width": 8}
    given = {"align_corners": False, "auxiliary": AUXILIARY, **settings}
    return segmenter.build(7, backbone=backbone, head=head, **given)


def mmseg_file(path, config=None, **settings):
    """A file in the published layout, with its settings in it or without, and its tensors."""
    state = rename_state(MMSEG_NAMES, originals.randomize(mmseg_resnet(**settings)).state_dict())
    meta = {"mmseg_version": "0.6.0", "CLASSES": ["road"], **({"config": config} if config else {})}
    return save({"meta": meta, "state_dict": state}, path), state


@pytest.mark.medium
@pytest.mark.parametrize("how", ["the settings in the file", "the file's name"])
@pytest.mark.parametrize(
    ("name", "config", "settings", "changes", "dilations", "rates"),
    [
        (
            "deeplabv3_r50-d8_769x769_40k_cityscapes_x.pth",
            CONFIG.format(**AT_8, align="True"),
            {"align_corners": True},
            r"model.align_corners=true",
            {3: [1, *[2] * 5], 4: [2, 4, 4]},
            (12, 24, 36),
        ),
        (
            "deeplabv3_r50-d16-mg124_512x1024_40k_x.pth",
            CONFIG.format(**AT_16, align="False"),
            {"align_corners": False, "output_stride": 16, "multi_grid": [1, 2, 4]},
            r"model.backbone.output_stride=16 model.backbone.multi_grid=\[1,2,4\]",
            {4: [1, 2, 4]},
            (6, 12, 18),
        ),
    ],
)
def test_mmseg_checkpoint_requires_its_settings(
    how, name, config, settings, changes, dilations, rates, image, tmp_path
):
    if how == "the settings in the file":
        path, state = mmseg_file(tmp_path / "x.pth", config)
    else:
        path, state = mmseg_file(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{how} defines .* Set {changes}$"):
        mmseg_resnet(weights=path)
    loaded = mmseg_resnet(weights=path, **settings).double().eval()
    x = originals.mmseg_resnet(state, image, dilations=dilations)
    align_corners = settings["align_corners"]
    expected = originals.mmseg_deeplab_head(state, x, image, rates=rates, align_corners=align_corners)
    torch.testing.assert_close(loaded(image).main, expected, rtol=1e-5, atol=1e-5)


def test_mmseg_settings_in_file_override_its_name(tmp_path):
    path, _ = mmseg_file(tmp_path / "r50-d16-mg124_769x769_x.pth", CONFIG.format(**AT_8, align="False"))
    mmseg_resnet(weights=path)
    with pytest.raises(ValueError, match=r"the settings in the file .* Set model.backbone.multi_grid=null$"):
        mmseg_resnet(weights=path, multi_grid=[1, 2, 4])


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        (["convs.0"], "another network of mmsegmentation"),
        (["aspp_modules.0", "c1_bottleneck"], r"mmsegmentation's DeepLabV3\+"),
    ],
)
def test_unsupported_mmseg_heads_are_rejected(parts, kind, tmp_path):
    state = {f"decode_head.{part}.conv.weight": torch.zeros(1) for part in parts}
    path = save({"state_dict": state}, tmp_path / "x.pth")
    message = rf"contains {kind}, .* model.backbone.weights=FILE loads its backbone"
    with pytest.raises(ValueError, match=message):
        mmseg_resnet(weights=path)


def test_tensors_of_unexpected_dimensions_are_rejected(tmp_path):
    _, state = mmseg_file(tmp_path / "x.pth")
    for name in ("decode_head.bottleneck.conv.weight", "decode_head.image_pool.1.conv.weight"):
        path = save({**state, name: torch.zeros(())}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"1 of another shape: head.aspp.*weight \(\) for"):
            mmseg_resnet(weights=path)


def test_multi_grid_needs_a_dilation_for_each_block():
    with pytest.raises(ValueError, match=r"multi_grid=\[1, 2\]: needs a dilation for each of the 3 blocks"):
        mmseg_resnet(multi_grid=[1, 2])
