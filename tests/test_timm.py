"""Backbones of timm: their stages, exact dilation, weights, and the commands on top of them."""

from __future__ import annotations

import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from runs import TIMM
from segkit import inference
from segkit.models import dilate, segmenter
from segkit.models.backbones import timm as ours

QUICK = ["resnet18", "convnext_atto", "tf_mobilenetv3_small_minimal_100"]
SLOW = [
    *("densenet121", "seresnet18", "resnext26ts", "convnextv2_atto", "tf_efficientnet_b0", "gernet_s"),
    *("mobilenetv2_035", "mobilenetv3_small_050", "mobilenetv4_conv_small_035", "mnasnet_small", "lcnet_035"),
    *("regnetx_002", "regnety_002", "dla46_c", "ese_vovnet19b_dw", "darknet17", "cs3darknet_focus_s"),
    *("repvgg_a0", "ghostnet_050", "hgnetv2_b0", "starnet_s050", "fasternet_t0", "mambaout_femto"),
    *("repvit_m0_9", "resnetv2_50x1_bit"),
]
FAMILIES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]  # the smallest of each
GATES = {"SqueezeExcite", "SEModule", "EffectiveSEModule", "SEWithNorm", "SqueezeExcitation", "GhostSE"}
GATES |= {"GlobalResponseNorm", "SEBlock"}  # these look at whole maps: of more cells where it is dilated


def build_backbone(variant, output_stride=32, **settings):
    return ours.build(variant=variant, output_stride=output_stride, **settings)


def remove_gates(network):
    """Without what takes one value from a whole map, and with statistics of groups over single cells."""
    for name, module in list(network.named_modules()):
        if type(module).__name__ in GATES:
            network.set_submodule(name, torch.nn.Identity())
    return network


def randomize(network):
    """Every parameter and running statistic so that every block has a say; in float64."""
    generator = torch.Generator().manual_seed(3)
    network = network.double().eval()
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.dtype != torch.float64:
                continue
            if tensor.ndim > 1 and tensor.numel() > max(tensor.shape):
                fan = tensor.numel() / tensor.shape[0]
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan) ** 0.5)
            else:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network


@pytest.mark.medium
@pytest.mark.parametrize("variant", FAMILIES)
def test_dilated_network_keeps_values_on_coarse_grid(variant, monkeypatch):
    """Oracle: timm's own undilated network; at output stride 8 every fourth cell is one of stride 32."""
    if variant == "resnetv2_50x1_bit":  # normalized over whole maps: let it be over channels
        monkeypatch.setattr(torch.nn.functional, "group_norm", lambda x, *_: x / x.std(1, keepdim=True))
    plain = randomize(remove_gates(timm.create_model(variant, features_only=True)))
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        coarse = build_backbone(variant).stages(plain(image))
        for output_stride in (8, 16) if variant in QUICK else (8,):
            network = remove_gates(build_backbone(variant, output_stride).double().eval())
            network.body.load_state_dict(plain.state_dict())
            fine = network(image)
            assert network.output_stride == output_stride
            for stride, before, after in zip((4, 8, 16, 32), coarse, fine, strict=True):
                step = max(1, stride // output_stride)
                assert after.shape[2:] == (
                    64 // min(stride, output_stride),
                    96 // min(stride, output_stride),
                )
                scale = before.abs().max()
                assert scale > 0
                torch.testing.assert_close(
                    after[..., ::step, ::step] / scale, before / scale, rtol=0, atol=1e-9
                )
                if step > 1:  # and other values between those cells
                    assert (after[..., 1::step, 1::step] - before).abs().max() > 0.01 * scale


@pytest.mark.medium
def test_dilation_equals_timm_at_every_cell():
    theirs = randomize(timm.create_model("resnet18", features_only=True, output_stride=8))
    network = build_backbone("resnet18", 8).double().eval()
    network.body.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        for one, other in zip(network(image), network.stages(theirs(image)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))


@pytest.mark.medium
def test_wrong_dilation_fails_the_check(monkeypatch):
    dilate_modules = dilate._dilate_modules

    def dilate_wrongly(network, refinements):
        dilate_modules(network, refinements)
        conv = network.layer4[1].conv2
        conv.dilation = conv.padding = (5, 5)

    monkeypatch.setattr(dilate, "_dilate_modules", dilate_wrongly)
    with pytest.raises(ValueError, match=r"output_stride=8: resnet18 .*: the values of stage 4 would change"):
        build_backbone("resnet18", 8)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("swin_tiny_patch4_window7_224", "the values of stage 3 would change"),
        pytest.param("hrnet_w18_small", "does not take maps of other sizes", marks=pytest.mark.slow),
        pytest.param("inception_next_atto", "are not square", marks=pytest.mark.slow),
    ],
)
def test_undilatable_networks_suggest_output_stride_32(variant, reason):
    with pytest.raises(
        ValueError, match=rf"output_stride=8: {variant} .* cannot be dilated: .*{reason}.*output_stride=32,"
    ):
        build_backbone(variant, 8)
    network = build_backbone(variant).eval()
    with torch.no_grad():
        for sides in ((64, 96), (33, 65), (1, 1)):
            shapes = [stage.shape for stage in network(torch.randn(2, 3, *sides))]
            rounded = [[-(-side // stride) for side in sides] for stride in (4, 8, 16, 32)]
            assert [list(shape) for shape in shapes] == [
                [2, channels, *size] for channels, size in zip(network.out_channels, rounded, strict=True)
            ]


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("convnext_tny", r"timm .* no such model. Did you mean convnext_tiny or"),
        ("vit_tiny_patch16_224", r".* this model has 16, 16, 16. Choose"),
        ("hiera_tiny_224", r"must take images of any size \(.*\). Choose another"),
    ],
)
def test_unsuitable_timm_models_are_rejected(variant, message):
    with pytest.raises(ValueError, match=rf"^model.backbone.variant={variant}: {message}"):
        build_backbone(variant)


def test_missing_timm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"timm is not installed \(.*\). Run pip install 'segkit\[timm\]'$"):
        build_backbone("resnet18")


# ---- weights


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "suffix"), [("convnext_atto", ".safetensors"), ("swin_tiny_patch4_window7_224", ".pth")]
)
def test_classifier_file_must_match_every_key(variant, suffix, tmp_path):
    classifier = timm.create_model(variant)
    randomize(classifier).float()
    state, path = classifier.state_dict(), tmp_path / f"x{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(state, path)
    body = build_backbone(variant, weights=str(path)).body
    plain = {name.replace("_", "."): tensor for name, tensor in state.items()}
    for name, tensor in body.state_dict().items():
        torch.testing.assert_close(tensor, plain[name.replace("_", ".")], rtol=0, atol=0)
    lost = next(name for name in state if name.endswith(".weight") and "stem" not in name)
    save({n: t for n, t in state.items() if n != lost}, path)
    with pytest.raises(ValueError, match=r"1 missing in the file: "):
        build_backbone(variant, weights=str(path))
    save({**state, "stage.9": state[lost].clone()}, path)
    with pytest.raises(ValueError, match=r"1 not in the model: stage.9"):
        build_backbone(variant, weights=str(path))


def test_failed_timm_download_names_file_and_place(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    variant = "tf_efficientnet_lite0.in1k"  # without the tag, the weights are those of a package
    message = rf"cannot download model.safetensors of timm/{variant} \(no route to host\).*\$HF_HOME"
    with pytest.raises(OSError, match=message):
        build_backbone(variant, weights="imagenet")
    with pytest.raises(ValueError, match=r"weights=imagenet: timm publishes none for lcnet_035. Give a path"):
        build_backbone("lcnet_035", weights="imagenet")


@pytest.mark.medium
def test_normalization_is_that_of_the_variant_unless_it_is_set():
    assert build_segmenter().mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    variant = "tf_mobilenetv3_small_minimal_100"
    assert timm.get_pretrained_cfg(variant).mean == (0.5, 0.5, 0.5)
    model = build_segmenter(variant)
    assert model.mean.flatten().tolist() == model.std.flatten().tolist() == [0.5, 0.5, 0.5]
    model = build_segmenter(variant, mean=(0.1, 0.2, 0.3))
    assert model.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert model.std.flatten().tolist() == [0.5, 0.5, 0.5]
    settings = segmenter.fill_normalization({"mean": None, "std": (1.0,) * 3}, model.backbone)
    assert settings == {"mean": (0.5, 0.5, 0.5), "std": (1.0, 1.0, 1.0)}


def test_published_weights_of_timm_are_loaded(tmp_path, monkeypatch):
    """Stand-in for the download of huggingface_hub, which has a cache of its own."""
    state, asked = timm.create_model("mobilenetv3_small_050").state_dict(), []
    save_file(state, tmp_path / "model.safetensors")

    def download(repo_id, filename, **_):
        asked.append((repo_id, filename))
        return str(tmp_path / filename)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    body = build_backbone("mobilenetv3_small_050", weights="imagenet").body
    assert all(torch.equal(tensor, state[name]) for name, tensor in body.state_dict().items())
    assert asked == [("timm/mobilenetv3_small_050.lamb_in1k", "model.safetensors")]


# ---- under our heads


def build_segmenter(variant="mobilenetv3_small_050", output_stride=16, head=None, **settings):
    backbone = {"name": "timm", "variant": variant, "output_stride": output_stride}
    return segmenter.build(5, backbone=backbone, head=head or {"name": "deeplabv3", "width": 16}, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["tf_efficientnet_b0", "convnext_atto"])
def test_prepared_timm_network_keeps_probabilities(variant):
    model = build_segmenter(variant).eval()
    randomize(model).float()
    image = torch.randint(0, 256, (3, 45, 70), dtype=torch.uint8)
    protocol = inference.Protocol(scales=(0.5, 1.0), flip=True, window=(48, 48))
    plain = inference.predict_probabilities(model, image, protocol)
    fast = inference.prepare(model)
    assert type(fast.backbone) is not type(model.backbone)  # traced
    found = inference.predict_probabilities(fast, image, protocol)
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.medium
@pytest.mark.slow
def test_padded_timm_network_exports_for_any_size(run_here, tmp_path, capsys):
    """The command compares the file with PyTorch at sizes that are no multiple of 32 before it keeps it."""
    chosen = [*TIMM, "model.backbone.variant=convnext_atto", "model.backbone.output_stride=16"]
    assert run_here("train_seg", *chosen, f"run_dir={tmp_path}", "run_name=x") == 0
    file = tmp_path / "x.onnx"
    assert run_here("export_seg", f"checkpoint={tmp_path}/x/best.pt", f"output={file}") == 0
    assert "97x97: 100.0000% of the pixels are equal" in capsys.readouterr().out
    assert file.is_file()
