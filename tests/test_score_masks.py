"""Scores of predicted masks equal those of the official kits, and unusable predictions are reported."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_image
from segkit.config import compose
from segkit.data.datasets import ade20k, cityscapes, shapes, voc
from segkit.data.label_map import LabelMap, load_builtin_label_map
from segkit.evaluation import mask_results, masks, results
from segkit.evaluation.evaluators import boundary, object_sizes
from segkit.evaluation.masks import score_masks
from segkit.inference import predictor
from segkit.tools import compare_runs

SIZES = [(13, 21), (21, 13), (1, 1), (32, 32), (7, 40)]  # height, width: landscape, portrait, one pixel


def make_pair(generator, labels, predictions, size, *, agreement=0.6):
    """A random label, and a prediction that agrees with it on some of the pixels."""
    label = generator.choice(labels, size).astype(np.uint8)
    guess = generator.choice(predictions, size).astype(np.uint8)
    is_right = (generator.random(size) < agreement) & np.isin(label, predictions)
    return label, np.where(is_right, label, guess)


ONE_SEED = pytest.mark.parametrize("generator", [0], indirect=True)


@pytest.fixture(params=range(4))
def generator(request):
    return np.random.default_rng(request.param)


@pytest.fixture
def city(tmp_path, generator):
    """Cityscapes' layout with random label ids, and predictions of scored label ids in one folder."""
    table = load_builtin_label_map("cityscapes")
    ids = [entry.id for entry in table.entries if entry.id >= 0]
    scored = generator.permutation([entry.id for entry in table.classes])[:12]  # others are absent
    labels = [i for i in ids if i in scored or i not in {e.id for e in table.classes}]
    for n, size in enumerate(SIZES):
        name = f"bonn/bonn_{n:06d}_000019"
        label, prediction = make_pair(generator, labels, scored, size)
        write_image(tmp_path / f"leftImg8bit/val/{name}_leftImg8bit.png", np.zeros((*size, 3), np.uint8))
        write_image(tmp_path / f"gtFine/val/{name}_gtFine_labelIds.png", label)
        write_image(tmp_path / f"out/{name}.png", prediction)
    return tmp_path


def test_scores_equal_cityscapesscripts(city, generator, monkeypatch):
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    dataset = cityscapes.build("val", root=str(city))
    for pair in dataset.pairs:
        label = np.array(Image.open(pair.label)).astype(np.uint16)
        numbered = label * 1000 + generator.integers(0, 4, label.shape).astype(np.uint16)
        is_object = (label >= 24) & (label <= 33) & (generator.random(label.shape) < 0.8)
        write_image(
            Path(str(pair.label).replace("labelIds", "instanceIds")), np.where(is_object, numbered, label)
        )
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # which it uses, and numpy 2.4 has not
    for name, value in {"evalInstLevelScore": True, "quiet": True, "JSONOutput": False}.items():
        monkeypatch.setattr(official.args, name, value)
    pairs = [(str(city / f"out/{pair.name}.png"), str(pair.label)) for pair in dataset.pairs]
    expected = official.evaluateImgLists(*map(list, zip(*pairs, strict=True)), official.args)
    found = score_masks(city / "out", dataset, format="raw", absent="exclude")
    for index, name in enumerate(dataset.table.names):
        np.testing.assert_equal(found.class_iou[index], expected["classScores"][name])
        np.testing.assert_equal(found.classes["iIoU"][index], expected["classInstScores"][name])
    for name, value in found.category_iou.items():
        np.testing.assert_equal(value, expected["categoryScores"][name])
    means = {"mIoU": "Classes", "mIoU_category": "Categories"}
    means |= {"iIoU": "InstClasses", "iIoU_category": "InstCategories"}
    for name, official_name in means.items():
        assert found.scores[name] == pytest.approx(expected[f"averageScore{official_name}"], rel=1e-14)
        assert name in found.intervals


@ONE_SEED
def test_further_evaluators_count_predictions_of_no_class(voc_tree):
    dataset = voc.build("val", root=str(voc_tree))
    file = voc_tree / "out/2007_000004.png"
    write_image(file, np.full_like(np.array(Image.open(file)), 255))
    found = score_masks(voc_tree / "out", dataset, evaluators={"boundary": True, "object_sizes": True})
    expected = [
        build(dataset.table) for build in (lambda t: boundary.build(t, "exclude"), object_sizes.build)
    ]
    for pair in dataset.pairs:
        prediction = torch.from_numpy(np.array(Image.open(voc_tree / f"out/{pair.name}.png")))
        for evaluator in expected:
            evaluator.update(np.array(Image.open(pair.label)), prediction)
    for evaluator in expected:
        for name, value in evaluator.compute(evaluator.state()).scores.items():
            assert found.scores[name] == value


def test_raw_ids_class_ids_and_colors_score_alike(city):
    dataset = cityscapes.build("val", root=str(city))
    table, results = dataset.table, []
    for name in ("raw", "ids", "colors"):
        for pair in dataset.pairs:
            ids = table.encode(np.array(Image.open(city / f"out/{pair.name}.png")), "")
            stored = {"raw": table.decode(ids), "ids": ids, "colors": table.colors[ids]}[name]
            write_image(city / f"{name}/{pair.name.split('/')[1]}_pred.png", stored)
        results.append(score_masks(city / name, dataset, format=name))
    for other in results[1:]:
        assert (other.counts == results[0].counts).all()
        np.testing.assert_equal(dict(other.intervals), dict(results[0].intervals))


def test_scores_equal_the_ade20k_development_kit(tmp_path, generator):
    """A translation of its ``intersectionAndUnion`` and ``pixelAccuracy``, image by image."""
    intersection, union, right, labeled = np.zeros(150), np.zeros(150), 0, 0
    for n, size in enumerate(SIZES[:2] + SIZES[3:]):
        label, prediction = make_pair(generator, range(31), range(1, 41), size)
        name = f"ADE_val_{n:08d}"
        write_image(tmp_path / f"images/validation/{name}.jpg", np.zeros((*size, 3), np.uint8))
        write_image(tmp_path / f"annotations/validation/{name}.png", label)
        write_image(tmp_path / f"out/{name}.png", prediction)
        right += ((prediction == label) & (label > 0)).sum()
        labeled += (label > 0).sum()
        kept = prediction * (label > 0)
        overlap = kept * (kept == label)
        areas = [np.histogram(x, 150, (1, 151))[0] for x in (overlap, kept, label)]
        intersection += areas[0]
        union += areas[1] + areas[2] - areas[0]
    iou = intersection / (np.spacing(1) + union)
    dataset = ade20k.build("val", root=str(tmp_path))
    found = score_masks(tmp_path / "out", dataset, absent="zero")
    assert found.protocol.format == "raw"
    assert found.scores["mIoU"] == pytest.approx(iou.mean(), rel=1e-13)
    assert found.scores["pixAcc"] == right / labeled
    assert found.scores["ADE20K"] == pytest.approx((iou.mean() + right / labeled) / 2, rel=1e-13)


@pytest.fixture
def voc_tree(tmp_path, generator):
    names = [f"2007_{n:06d}" for n in range(len(SIZES))]
    for name, size in zip(names, SIZES, strict=True):
        label, prediction = make_pair(generator, [*range(9), 255], range(12), size)
        write_image(tmp_path / f"JPEGImages/{name}.jpg", np.zeros((*size, 3), np.uint8))
        write_image(tmp_path / f"SegmentationClass/{name}.png", label)
        write_image(tmp_path / f"out/{name}.png", prediction)
    lists = tmp_path / "ImageSets/Segmentation/val.txt"
    lists.parent.mkdir(parents=True)
    lists.write_text("\n".join(names))
    return tmp_path


def read_flat(folder, tree):
    """Scored labels and predictions of the VOC tree, one after another."""
    label, prediction = (
        np.concatenate([np.array(Image.open(file)).ravel() for file in sorted((tree / name).glob("*.png"))])
        for name in ("SegmentationClass", folder)
    )
    return label[label != 255], prediction[label != 255]


def test_scores_equal_the_iou_metric_of_mmsegmentation(voc_tree):
    """A translation of its ``intersect_and_union`` and ``total_area_to_metrics`` with nanmean."""
    label, prediction = (torch.from_numpy(x) for x in read_flat("out", voc_tree))
    areas = [
        torch.histc(x.float(), bins=21, min=0, max=20).double()
        for x in (prediction[prediction == label], prediction, label)
    ]
    iou = (areas[0] / (areas[1] + areas[2] - areas[0])).numpy()
    found = score_masks(voc_tree / "out", voc.build("val", root=str(voc_tree)))
    np.testing.assert_array_equal(found.class_iou, iou)
    assert found.scores["mIoU"] == pytest.approx(np.nanmean(iou), rel=1e-14)
    assert found.scores["mAcc"] == pytest.approx(np.nanmean((areas[0] / areas[2]).numpy()), rel=1e-14)


@pytest.mark.parametrize("absent", ["exclude", "zero"])
def test_scores_equal_the_jaccard_index_of_torchmetrics(voc_tree, absent):
    jaccard_index = pytest.importorskip("torchmetrics.functional").jaccard_index
    label, prediction = (torch.from_numpy(x.astype(int)) for x in read_flat("out", voc_tree))
    iou = jaccard_index(prediction, label, "multiclass", num_classes=21, average="none")
    mean = iou.mean()  # of all classes
    if absent == "exclude":
        mean = jaccard_index(prediction, label, "multiclass", num_classes=21, average="macro")
    found = score_masks(voc_tree / "out", voc.build("val", root=str(voc_tree)), absent=absent)
    torch.testing.assert_close(torch.tensor(found.class_iou).nan_to_num().float(), iou, rtol=0, atol=1e-7)
    assert found.scores["mIoU"] == pytest.approx(mean.item(), abs=1e-6)  # it computes in float32


def test_scores_equal_the_development_kit_of_voc(voc_tree):
    """A translation of its ``VOCevalseg``: a confusion matrix over all images, labels of 255 left out."""
    counts = np.zeros((21, 21))
    for file in sorted((voc_tree / "SegmentationClass").glob("*.png")):
        label, prediction = (
            np.array(Image.open(x)).astype(int) for x in (file, voc_tree / "out" / file.name)
        )
        is_scored = label < 255
        joint = 1 + label + prediction * 21
        counts += np.histogram(joint[is_scored], np.arange(1, 21 * 21 + 2))[0].reshape(21, 21).T
    accuracies = np.zeros(21)
    for j in range(21):
        labeled, predicted, right = counts[j].sum(), counts[:, j].sum(), counts[j, j]
        accuracies[j] = right / max(1, labeled + predicted - right)
    found = score_masks(voc_tree / "out", voc.build("val", root=str(voc_tree)), absent="zero")
    np.testing.assert_array_equal(np.nan_to_num(found.class_iou), accuracies)
    assert found.scores["mIoU"] == pytest.approx(accuracies.mean(), rel=1e-14)
    assert found.scores["pixAcc"] == counts.trace() / counts.sum()


@ONE_SEED
def test_pixels_predicted_as_no_class_count_as_wrong(voc_tree):
    before = score_masks(voc_tree / "out", voc.build("val", root=str(voc_tree)))
    file = voc_tree / "out/2007_000000.png"
    prediction = np.array(Image.open(file))
    label = np.array(Image.open(voc_tree / "SegmentationClass/2007_000000.png"))
    missed = (prediction == label) & (label < 9)
    write_image(file, np.where(missed, 255, prediction).astype(np.uint8))
    after = score_masks(voc_tree / "out", voc.build("val", root=str(voc_tree)))
    assert after.counts[:, -1].sum() == missed.sum()
    assert after.counts.sum() == before.counts.sum()
    assert after.counts[:, :-1].trace() == before.counts[:, :-1].trace() - missed.sum()


@ONE_SEED
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "1 x missing prediction.*2007_000001.jpg: has no prediction: expected 2007_000001.png"),
        ("extra", "1 x extra prediction.*other.png: belongs to no image"),
        ("size", "1 x size.*2007_000001.png: is 5x9 pixels, its label 13x21"),
        ("values", "1 x values out of range.*2007_000001.png: 77 .*not in .*set predictions_format=raw"),
        ("twice", "1 x several predictions.*2007_000001.jpg: has 2 predictions"),
        ("damaged", "2007_000001.png"),
        ("colors", "1 x format.*2007_000001.png: has 3 dimensions"),
    ],
)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_unusable_predictions_are_reported_or_skipped(voc_tree, change, message, on_error):
    dataset, file = voc.build("val", root=str(voc_tree)), voc_tree / "out/2007_000001.png"
    array = np.array(Image.open(file))
    label = np.array(Image.open(voc_tree / "SegmentationClass/2007_000001.png"))
    {
        "missing": lambda: file.unlink(),
        "extra": lambda: write_image(voc_tree / "out/other.png", array),
        "size": lambda: write_image(file, np.zeros((9, 5), np.uint8)),
        "values": lambda: write_image(file, np.where(label < 255, 77, array).astype(np.uint8)),
        "twice": lambda: write_image(voc_tree / "out/more/2007_000001_pred.png", array),
        "damaged": lambda: file.write_bytes(file.read_bytes()[:40]),
        "colors": lambda: write_image(file, np.dstack([array] * 3)),
    }[change]()
    if on_error == "stop":
        with pytest.raises(ValueError, match=f"(?s){message}"):
            score_masks(voc_tree / "out", dataset, format="ids")
        return
    found = score_masks(voc_tree / "out", dataset, format="ids", on_error="skip")
    assert found.skipped == (0 if change == "extra" else 1)
    assert len(found.names) == len(SIZES) - found.skipped


@pytest.mark.parametrize(
    ("label", "stored", "expected"),
    [
        ([1, 2, 150], [1, 2, 150], "raw"),  # 150 is no class id
        ([1, 2, 3], [0, 1, 2], "ids"),  # 0 is no class of the masks
        ([0, 2, 3], [0, 2, 150], "raw"),  # 0 is ignored
        ([1, 2, 3], [1, 2, 3], "raw"),  # both fit, and this one agrees with the label
        ([2, 3, 4], [1, 2, 3], "ids"),
        ([9, 9, 9], [1, 2, 3], "two formats fit .*class ids 0"),
        ([9, 9, 9], [1, 2, 200], "no format fits .*class ids 0"),
    ],
)
def test_format_is_detected_from_values_and_labels(tmp_path, label, stored, expected):
    write_image(tmp_path / "images/validation/a.jpg", np.zeros((1, 3, 3), np.uint8))
    write_image(tmp_path / "annotations/validation/a.png", np.array([label], np.uint8))
    write_image(tmp_path / "out/a.png", np.array([stored], np.uint8))
    dataset = ade20k.build("val", root=str(tmp_path))
    if expected in masks.FORMATS:
        assert masks.detect_format({0: tmp_path / "out/a.png"}, dataset) == expected
    else:
        with pytest.raises(ValueError, match=expected):
            masks.detect_format({0: tmp_path / "out/a.png"}, dataset)


@ONE_SEED
def test_an_interrupted_call_is_continued_unless_a_file_changes(voc_tree, monkeypatch):
    dataset, partial = voc.build("val", root=str(voc_tree)), voc_tree / "partial"
    read, opened = masks.read_mask, []

    def score_until(last):
        def read_until(file, coding):
            if file.stem == last:
                raise KeyboardInterrupt
            opened.append(file.stem)
            return read(file, coding)

        opened.clear()
        monkeypatch.setattr(masks, "read_mask", read_until)
        return score_masks(voc_tree / "out", dataset, format="ids", partial=partial)

    expected = score_until(None)
    with pytest.raises(KeyboardInterrupt):
        score_until("2007_000003")
    assert partial.is_dir()
    found = score_until(None)
    assert sorted(opened) == ["2007_000003", "2007_000004"]
    assert (found.image_counts == expected.image_counts).all()
    assert not partial.exists()
    with pytest.raises(KeyboardInterrupt):
        score_until("2007_000003")
    label = np.array(Image.open(voc_tree / "SegmentationClass/2007_000000.png"))
    write_image(voc_tree / "out/2007_000000.png", np.where(label == 255, 0, label).astype(np.uint8))
    assert score_until(None).scores["pixAcc"] > expected.scores["pixAcc"]
    assert len(opened) == len(SIZES)


@ONE_SEED
def test_more_than_255_classes_are_decoded(generator):
    ids = generator.integers(0, 300, (40, 50)).astype(np.int16)
    rows = [[n, str(n), [n % 256, n // 256, 0], False, ""] for n in range(300)]
    table = LabelMap.from_plain({"name": "x", "entries": rows})
    found = masks.Decoder(table, "ids").decode(ids.astype(np.uint16), "a.png")
    assert found.dtype == np.int16
    assert (found == ids).all()


@ONE_SEED
def test_predictions_of_two_tools_are_compared_with_pictures(voc_tree):
    dataset, folders = voc.build("val", root=str(voc_tree)), []
    for file in (voc_tree / "out").glob("*.png"):
        prediction = np.array(Image.open(file))
        write_image(voc_tree / "other" / file.name, np.where(prediction == 3, 4, prediction).astype(np.uint8))
    for name in ("out", "other"):
        found, folder = score_masks(voc_tree / name, dataset), voc_tree / f"result_{name}"
        content = {"settings": {"data": {"name": "voc", "root": str(voc_tree)}}}
        files = [voc_tree / name / f"{image}.png" for image in found.names]
        results.write_results(
            folder, found, dataset.table, content, predictions=files, predictions_format="ids"
        )
        folders.append(str(folder))
    text = compare_runs.main([*folders, "--json", f"{voc_tree}/c.json", "--png", f"{voc_tree}/c.png"])
    differences = json.loads((voc_tree / "c.json").read_text())["classes"]
    assert differences["bird"]["second"] == 0 < differences["bird"]["first"]
    assert differences["person"]["first"] == differences["person"]["second"]
    assert re.search(r"^bird .* -\d", text, re.MULTILINE)
    assert np.array(Image.open(voc_tree / "c.png")).std() > 20


@pytest.mark.medium
@ONE_SEED
def test_command_scores_masks_without_a_network(voc_tree, run_here, capsys):
    words = f"predictions={voc_tree}/out data=voc data.root={voc_tree} output={voc_tree}/result report=true"
    assert run_here("test_seg", *words.split()) == 0
    output = capsys.readouterr().out
    assert run_here("test_seg", *words.split()) == 0
    assert capsys.readouterr().out == output
    expected = score_masks(voc_tree / "out", voc.build("val", root=str(voc_tree)), absent="zero")
    result = json.loads((voc_tree / "result/result.json").read_text())
    assert result["scores"] == pytest.approx(expected.scores)
    assert f"mIoU {100 * expected.scores['mIoU']:.2f}" in output
    assert "predictions_format=ids (detected)" in output
    assert "2007_000003" in (voc_tree / "result/report.html").read_text(encoding="utf-8")


@ONE_SEED
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predictions=out", "checkpoint=best.pt"], "predictions= scores masks without a network"),
        (["predictions=out", "save=[ids]"], "save=.*: needs a network"),
        (["predictions=elsewhere"], "predictions=elsewhere: there is no such folder"),
        (["predictions=out", "predictions_format=rgb"], "predictions_format=rgb"),
    ],
)
def test_command_refuses_settings_that_need_a_network(voc_tree, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(voc_tree)
    reader = predictor.settings_from_checkpoint
    words = ["data=voc", "data.root=.", *arguments]
    with pytest.raises(ValueError, match=message):
        mask_results.score_and_write(compose.compose_settings("test", words, stored=reader))


def test_generated_scenes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data.name=shapes: has no files"):
        score_masks(tmp_path, shapes.build("val"))
