"""Exported files agree with PyTorch and are used like checkpoints; others are not written."""

from __future__ import annotations

import itertools
import json

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import segkit
from conftest import run_command
from segkit import export
from segkit.data.label_map import Entry, LabelMap, load_builtin_label_map
from segkit.export import int8, verification
from segkit.export import onnx as onnx_format
from segkit.inference import predict
from segkit.inference.protocol import Protocol
from segkit.models import segmenter

FAMILIES = {  # one of each kind of bottleneck
    "resnest": "14",
    "plain": "50d",
    "resnext": "50_32x4d",
    "se": "se_50",
    "cbam": "cbam_50",
    "sge": "sge_50",
    "sk": "sk_50",
    "sknet": "sknet_50",
}
HEADS = ["deeplabv3", "deeplabv3_mmseg", "deeplabv3plus", "fcn", "pspnet"]
SIZES = [(33, 65), (64, 47), (96, 96)]


def build_thin_model(family, head, *, num_classes=5):
    """Return a network of few channels with random batch-norm statistics."""
    torch.manual_seed(0)
    name = "resnest" if family == "resnest" else "resnet"
    trunk = {"name": name, "variant": FAMILIES[family], "width": 8, "output_stride": 16}
    model = segmenter.build(num_classes, backbone=trunk, head={"name": head, "width": 8}).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.2, 0.2)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model


def metadata(model, kind):
    rows = [Entry(k, f"class {k}", (k % 256, k // 256, 0)) for k in range(model.num_classes)]
    return {
        "interface": kind.interface,
        "image_size": kind.image_size,
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
        "align_corners": model.align_corners,
        "classes": LabelMap("numbers", tuple(rows)).to_plain(),
        "settings": {},
    }


def export_model(model, path, kind):
    with export.export_atomically(model, path, kind, metadata=metadata(model, kind)):
        pass
    return export.load_exported(path, trust_code=True)


def make_image(height, width):
    noise = np.random.default_rng(height).integers(0, 256, (9, 9, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def fraction_of_equal_pixels(model, file, sizes=SIZES):
    """Compare with the unfolded network, called once, with torch's own resizing."""
    equal = total = 0
    for size in sizes:
        image = make_image(*size)
        with torch.no_grad():
            expected = model(torch.from_numpy(image).permute(2, 0, 1)[None]).main[0].argmax(0)
        found = predict(file, image, Protocol())
        equal += int((found == expected).sum())
        total += found.numel()
    return equal / total


@pytest.mark.medium
@pytest.mark.parametrize(
    ("format", "interface", "family", "head"),
    [
        ("onnx", "logits", "resnest", "deeplabv3plus"),
        ("openvino", "ids", "resnest", "deeplabv3"),
        pytest.param("torch_export", "ids", "resnest", "fcn", marks=pytest.mark.slow),
    ],
)
def test_exported_formats_match_pytorch_at_every_size(format, interface, family, head, tmp_path):
    model = build_thin_model(family, head)
    path = tmp_path / f"net{export.FORMATS[format]}"
    file = export_model(model, path, export.ExportKind(format, interface))
    assert fraction_of_equal_pixels(model, file) >= 0.9999
    assert sorted(part.name for part in tmp_path.iterdir()) == sorted(
        p.name for p in export.list_exported_files(path)
    )


@pytest.mark.medium
def test_program_with_size_guards_gives_a_clear_error(tmp_path, monkeypatch):
    """PyTorch before 2.13 leaves guards in every program; later ones where a network branches by the size."""
    model = build_thin_model("resnest", "fcn")
    plain = model.backbone.forward
    monkeypatch.setattr(model.backbone, "forward", lambda x: plain(x if x.shape[2] % 4 == 1 else x + 1))
    file = export_model(model, tmp_path / "net.pt2", export.ExportKind("torch_export", "logits"))
    assert fraction_of_equal_pixels(model, file, sizes=[(129, 97)]) >= 0.9999
    with pytest.raises(ValueError, match=r"images of 64x96 \(Guard failed: .*image_size=\[height,width\]"):
        predict(file, make_image(64, 96), Protocol(name="whole"))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "head"), list(itertools.product(FAMILIES, HEADS)))
def test_all_families_and_heads_match_pytorch(family, head, tmp_path):
    model = build_thin_model(family, head)
    for format, interface in (("onnx", "ids"), ("openvino", "logits")):
        path = tmp_path / f"net{export.FORMATS[format]}"
        file = export_model(model, path, export.ExportKind(format, interface))
        assert fraction_of_equal_pixels(model, file) >= 0.9999


@pytest.fixture(scope="module")
def logits_file(tiny_run, tmp_path_factory):
    """A file for every protocol, by the command."""
    path = tmp_path_factory.mktemp("export") / "tiny.onnx"
    words = f"checkpoint={tiny_run / 'best.pt'} interface=logits output={path} images=1".split()
    done = run_command("export_seg.py", *words)
    assert "Comparing with PyTorch in float32 on 1 image: the val split of shapes" in done.stdout
    assert "% of 14,658 pixels are equal; elsewhere the logit of PyTorch's class is larger by" in done.stdout
    return path


SLIDING = ["sliding", "evaluation.window=24", "evaluation.scales=[0.75,1.5]", "evaluation.flip=true"]


@pytest.mark.medium
@pytest.mark.parametrize("how", [["whole"], SLIDING])
def test_exported_file_scores_like_its_checkpoint(how, tiny_run, logits_file, run_here, tmp_path):
    results = []
    for name, file in (("net", tiny_run / "best.pt"), ("file", logits_file)):
        words = [f"checkpoint={file}", f"output={tmp_path / name}", "loader.workers=0"]
        assert run_here("test_seg", *words, f"evaluation={how[0]}", *how[1:]) == 0
        results.append(json.loads((tmp_path / name / "result.json").read_text()))
    assert results[0]["protocol"] == results[1]["protocol"]
    assert results[0]["scores"] == pytest.approx(results[1]["scores"], abs=1e-4)
    assert results[0]["weights_sha256"] != results[1]["weights_sha256"]


@pytest.mark.medium
def test_exported_file_predicts_like_its_checkpoint(tiny_run, logits_file):
    image = make_image(61, 83)
    net, file = segkit.load(tiny_run / "best.pt"), segkit.load(logits_file)
    assert (net.predict(image) == file.predict(image)).mean() >= 0.9999
    assert np.abs(net.probabilities(image) - file.probabilities(image)).max() < 1e-4
    assert file.table.to_plain() == net.table.to_plain()


@pytest.mark.medium
def test_metadata_describe_classes_and_normalization(logits_file, tiny_run):
    stored = {entry.key: json.loads(entry.value) for entry in onnx.load(str(logits_file)).metadata_props}
    table = segkit.load(tiny_run / "best.pt").table
    assert stored["names"] == table.names
    assert stored["colors"] == table.colors.tolist()
    assert stored["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert stored["std"] == pytest.approx([0.229, 0.224, 0.225])
    assert stored["protocol"]["name"] == "whole"
    (image,) = onnxruntime.InferenceSession(logits_file).get_inputs()
    assert image.shape == ["batch", 3, "height", "width"]


@pytest.mark.medium
def test_file_that_disagrees_is_not_written(tiny_run, run_here, monkeypatch, capsys, tmp_path):
    right = onnx_format.open_session

    def open_wrong_session(*args, **kwargs):
        def run(image):
            ids = session(image)
            ids[:, ::8, ::8] += 1  # one pixel in 64
            return ids

        session = right(*args, **kwargs)
        return run

    monkeypatch.setattr(onnx_format, "open_session", open_wrong_session)
    path = tmp_path / "out" / "net.onnx"
    assert run_here("export_seg", f"checkpoint={tiny_run / 'best.pt'}", f"output={path}", "images=1") == 2
    wrong_pixels = 4**2 + 13**2 + 9**2  # of 32x32, 97x97 and 65x65
    assert (
        f"not written: {10**6 * (14658 - wrong_pixels) // 14658 / 10**4:.4f} % of 14,658"
        in capsys.readouterr().err
    )
    assert not list(path.parent.iterdir())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 300)), min_size=1, max_size=9))
def test_agreement_is_counted_over_pixels(counts):
    found = [verification.Comparison(1, n, n, max(n - wrong, 0), 0.5) for n, wrong in counts]
    share = sum(c.equal for c in found) / sum(c.pixels for c in found)
    if share < 0.9999:
        with pytest.raises(ValueError, match="is not written"):
            verification.check_agreement(found, export.ExportKind(), "x.onnx")
    else:
        assert ("100.0000 %" in verification.check_agreement(found, export.ExportKind(), "x.onnx")) == (
            share == 1
        )


@pytest.mark.medium
def test_ids_file_predicts_and_rejects_other_uses(tiny_run, run_here, tmp_path):
    image, path = make_image(40, 56), tmp_path / "fixed.onnx"
    words = f"checkpoint={tiny_run / 'best.pt'}", "image_size=[40,56]", f"output={path}", "images=1"
    assert run_here("export_seg", *words) == 0
    file = segkit.load(path)
    assert (segkit.load(tiny_run / "best.pt").predict(image) == file.predict(image)).mean() >= 0.9999
    with pytest.raises(ValueError, match=r"takes images of 40x56 only, not 32x32: export with"):
        file.predict(make_image(32, 32))
    with pytest.raises(ValueError, match=r"returns class ids only: probabilities .* interface=logits"):
        file.probabilities(image)
    with pytest.raises(ValueError, match=r"evaluation=ms: fixed.onnx returns class ids, but merging scales"):
        segkit.load(path, protocol=Protocol(name="ms", scales=(1.0, 2.0))).predict(image)


@pytest.mark.medium
def test_fixed_size_file_works_with_windows_of_its_size(tmp_path):
    model = build_thin_model("resnest", "fcn")
    file = export_model(model, tmp_path / "net.pt2", export.ExportKind("torch_export", "logits", (48, 32)))
    image = make_image(61, 83)
    fix = r"evaluation=sliding evaluation.window=\[48,32\] .*evaluation.border=pad"
    with pytest.raises(ValueError, match=rf"48x32 only, not 61x83: .*{fix}"):
        predict(file, image, Protocol())
    how = Protocol(window=(48, 32), stride=(48, 32), border="pad", scales=(0.5, 1.5), flip=True)
    assert (predict(file, image, how) == predict(model, image, how)).double().mean() >= 0.9999


@pytest.mark.medium
def test_unsupported_precision_of_a_runtime_is_rejected(logits_file):
    with pytest.raises(ValueError, match=r"precision=bf16: tiny.onnx is computed in .*format=openvino"):
        segkit.load(logits_file, protocol=Protocol(precision="bf16"))


@pytest.mark.parametrize("suffix", list(export.FORMATS.values()))
def test_missing_or_damaged_exported_file_is_rejected(suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    with pytest.raises(ValueError, match="there is no such file"):
        export.read_metadata(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"cannot be read|not written by export_seg"):
        export.read_metadata(path)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["output=net.xml"], "output=net.xml: a file of format=onnx ends in .onnx"),
        (["format=torch_export", "precision=int8"], "only format=onnx and format=openvino have it"),
    ],
)
def test_invalid_export_settings_give_one_error_line(words, message, tiny_run, run_here, capsys):
    assert run_here("export_seg", f"checkpoint={tiny_run / 'best.pt'}", *words) == 2
    captured = capsys.readouterr().err
    assert message in captured
    assert len(captured.splitlines()) == 1


class Spectral(nn.Module):
    """A head with an operator that ONNX export does not know for complex images of free size."""

    def forward(self, stages):
        return torch.linalg.svd(stages[-1])[0]


@pytest.mark.medium
def test_export_error_names_the_operator(tmp_path):
    model = build_thin_model("resnest", "fcn")
    model.head = Spectral()
    kind = export.ExportKind("onnx", "logits", (64, 64))
    with pytest.raises(
        ValueError, match=r"format=onnx: the network cannot be exported at the operator aten.*svd"
    ):
        export_model(model, tmp_path / "net.onnx", kind)
    assert not list(tmp_path.iterdir())


def test_missing_package_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ValueError, match=r"onnx is not installed.*pip install 'segkit\[export\]'"):
        export_model(build_thin_model("resnest", "fcn"), tmp_path / "net.onnx", export.ExportKind())


def list_weight_types(path):
    return {tensor.data_type for tensor in onnx.load(str(path)).graph.initializer if len(tensor.dims) == 4}


@pytest.mark.medium
@pytest.mark.slow
def test_fp16_export_has_half_weights(tiny_run, run_here, tmp_path):
    words = [f"checkpoint={tiny_run / 'best.pt'}", "precision=fp16", f"output={tmp_path}/a.onnx", "images=1"]
    assert run_here("export_seg", *words) == 0
    assert list_weight_types(tmp_path / "a.onnx") == {onnx.TensorProto.FLOAT16}
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    assert session.get_inputs()[0].shape == ["batch", "height", "width", 3]
    assert session.get_outputs()[0].shape == ["batch", "height", "width"]


@pytest.mark.medium
@pytest.mark.slow
def test_int8_export_has_integers_and_is_scored(tiny_run, run_here, tmp_path, capsys):
    path = tmp_path / "eight.onnx"
    words = [f"checkpoint={tiny_run / 'best.pt'}", "precision=int8", f"output={path}", "images=1"]
    status = run_here("export_seg", *words, "calibration_images=4", "evaluation.absent=exclude")
    captured = capsys.readouterr()
    assert "Calibrating with 4 images: the train split of shapes" in captured.out
    assert "mIoU on 6 images (whole, changed: absent): float32" in captured.out
    if status == 2:  # four steps of training may leave too little to keep
        assert "int8 lowers validation mIoU from" in captured.err
        assert not path.exists()
        return
    assert onnx.TensorProto.INT8 in list_weight_types(path)


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
def test_int8_range_is_that_of_the_activation(activation, tmp_path):
    """The convolution's negative results, which the activation drops, are a hundred times as large."""
    rng = np.random.default_rng(0)
    weight = rng.uniform(0, 1, (4, 402, 1, 1)).astype(np.float32)
    weight[:, 2:] = -0.5
    helper, values = onnx.helper, {"weight": weight, "bias": np.zeros(4, np.float32)}
    values |= {"low": np.float32(0), "high": np.float32(6), "weight2": weight[:2, :1].repeat(4, 1)}
    inputs = ["b"] if activation == "Relu" else ["b", "low", "high"]
    nodes = [
        helper.make_node("Conv", ["a", "weight", "bias"], ["b"]),
        helper.make_node(activation, inputs, ["c"]),
        helper.make_node("Conv", ["c", "weight2"], ["d"]),
    ]
    shapes = [
        helper.make_tensor_value_info(name, 1, [1, size, 8, 8]) for name, size in (("a", 402), ("d", 2))
    ]
    constants = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "net", shapes[:1], shapes[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "net.onnx"))
    image = rng.uniform(0, 1, (1, 402, 8, 8)).astype(np.float32)
    image[:, 2:] = np.arange(8) % 2
    int8.quantize(tmp_path / "net.onnx", tmp_path / "int8.onnx", [image])
    runs = [
        onnxruntime.InferenceSession(tmp_path / name).run(None, {"a": image})[0]
        for name in ("net.onnx", "int8.onnx")
    ]
    assert np.abs(runs[0] - runs[1]).max() < 0.03 * runs[0].max()


@pytest.mark.parametrize(
    ("after", "kept"), [(0.7, True), (0.6951, True), (0.6949, False), (float("nan"), False)]
)
def test_int8_drop_of_half_a_point_is_rejected(after, kept):
    if kept:
        verification.check_int8_drop(0.7, after, "x.onnx")
        return
    with pytest.raises(ValueError, match=r"int8 lowers validation mIoU from 70.00%"):
        verification.check_int8_drop(0.7, after, "x.onnx")


@pytest.mark.medium
def test_pt2_file_needs_trust_code(run_here, capsys, monkeypatch, tmp_path):
    path = tmp_path / "net.pt2"
    export_model(build_thin_model("resnest", "fcn"), path, export.ExportKind("torch_export", "ids", (48, 32)))
    with pytest.raises(ValueError, match=r"net\.pt2: opening a \.pt2 file can run any code.*trust_code=true"):
        segkit.load(path)
    assert segkit.load(path, trust_code=True).predict(make_image(48, 32)).shape == (48, 32)
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("load_exported"))
    words = f"checkpoint={path}", f"output={tmp_path}"
    assert run_here("predict_seg", *words, f"input={tmp_path}", "device=cpu") == 2
    assert run_here("test_seg", *words, "data=camvid", f"data.root={tmp_path}") == 2
    assert "Traceback" not in capsys.readouterr().err
    assert export.read_metadata(path)["interface"] == "ids"


@pytest.mark.medium
def test_onnx_with_external_data_is_rejected(logits_file, tmp_path):
    model = onnx.load(str(logits_file))
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    onnx.save(model, str(tmp_path / "net.onnx"))
    with pytest.raises(ValueError, match=r"net\.onnx: cannot be read: it refers to weights in other files"):
        segkit.load(tmp_path / "net.onnx")


@pytest.fixture
def change_metadata(logits_file, tmp_path):
    """Write a copy of the file with other metadata; None removes an entry."""

    def change(**values):
        model = onnx.load(str(logits_file))
        stored = {entry.key: entry.value for entry in model.metadata_props} | values
        onnx.helper.set_model_props(model, {key: text for key, text in stored.items() if text is not None})
        onnx.save(model, str(tmp_path / "net.onnx"))
        return tmp_path / "net.onnx"

    return change


@pytest.mark.medium
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", "[]"),
        ("mean", "[NaN, 0, 0]"),
        ("std", "[0, 1, 1]"),
        ("image_size", "[3]"),
        ("interface", "[" * 100_000),
        ("classes", '{"name": 1}'),
        ("settings", '{"data": []}'),
        ("align_corners", None),
    ],
)
def test_invalid_metadata_are_rejected(change_metadata, key, value):
    with pytest.raises(ValueError, match=r"not written by export_seg.py|class table"):
        segkit.load(change_metadata(**{key: value}))


@pytest.mark.medium
@pytest.mark.parametrize(
    "values",
    [
        {"interface": '"ids"'},
        {"mean": "[0, 0]", "std": "[1, 1]"},
        {"classes": json.dumps(load_builtin_label_map("camvid").to_plain())},
    ],
)
def test_metadata_of_another_network_are_rejected(change_metadata, values):
    image = make_image(32, 48)[..., : 2 if "mean" in values else 3]
    with pytest.raises(ValueError, match=r"contradicts its metadata|cannot be run on images"):
        segkit.load(change_metadata(**values)).predict(image)
