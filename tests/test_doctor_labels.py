"""The doctor with a model: labels that the model contradicts."""

from __future__ import annotations

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

import segkit
from conftest import run_script
from planted import NAMES, SCENES, examine, find, kinds, make, write_pair
from segkit.data.datasets import folder
from segkit.tools.doctor import labels, model, page, ranking
from segkit.tools.doctor.findings import Key
from webdriver import browser, needs_chromium


def soften(label, *, sure=0.9, classes=10, seed=0):
    """Return probabilities (K, H, W) of a model that is mostly right about a label without ignored pixels."""
    known = np.where(label == 255, 0, label)
    spread = np.random.default_rng(seed).dirichlet(np.ones(classes), label.shape).transpose(2, 0, 1)
    truth = (np.arange(classes)[:, None, None] == known).astype(np.float32)
    return (sure * truth + (1 - sure) * spread).astype(np.float32)


def halves():
    """Return a label of sky (0) above road (1) with a car (2)."""
    label = np.zeros((120, 160), np.uint8)
    label[60:] = 1
    label[70:100, 40:80] = 2
    return label


def test_relabeled_region_is_found_with_its_classes_and_box():
    truth = halves()
    label = truth.copy()
    label[70:100, 40:80] = 7
    compared, numbers = labels.compare_label(soften(truth), label)
    region = compared.regions[0]
    assert (region.label, region.prediction, region.box) == (7, 2, (40, 70, 40, 30))
    assert region.share == pytest.approx(40 * 30 / truth.size)
    assert numbers[85, 60] == 1
    assert (numbers == 1).sum() == 40 * 30
    assert compared.shift == 0
    probabilities = np.maximum(soften(truth), labels.LEAST)
    gain = np.log(probabilities.max(0) / probabilities[7])[70:100, 40:80].sum() / truth.size
    assert region.evidence == pytest.approx(gain, rel=1e-4)


def test_exchanged_classes_are_found():
    truth = halves()
    label = np.choose(truth, [1, 0, 2]).astype(np.uint8)
    one, other, gain = labels.compare_label(soften(truth), label)[0].exchange
    assert {one, other} == {0, 1}
    assert gain > ranking.EXCHANGE


@pytest.mark.parametrize("offset", [(0, 12), (-9, 0), (8, -8)])
def test_offset_of_moved_label_is_found(offset):
    move = np.float32([[1, 0, offset[1]], [0, 1, offset[0]]])
    label = cv2.warpAffine(halves(), move, (160, 120), flags=cv2.INTER_NEAREST, borderValue=255)
    compared, _ = labels.compare_label(soften(halves()), label)
    assert compared.shift > ranking.SHIFT
    assert np.abs(np.add(compared.offset, offset)).max() <= 2


@pytest.mark.parametrize("shape", [(5, 7), (1, 900), (700, 1300)])
def test_any_size_and_only_ignored_pixels_are_compared(shape):
    label = np.full(shape, 255, np.uint8)
    compared, _ = labels.compare_label(soften(label), label)
    assert (compared.regions, compared.shift, compared.exchange) == ((), 0, None)
    label[:] = 3
    assert labels.compare_label(soften(label), label)[0].regions == ()


def evidence(place, *regions, shift=0.0, is_trained_on=False):
    made = tuple(labels.Region(a, b, value, 0.1, (0, 0, 5, 5)) for a, b, value in regions)
    compared = labels.Comparison(made, shift, (0, 0), None)
    return labels.Suspect(Key("val", place, f"i{place}"), is_trained_on, compared)


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_relative_to_the_same_confusion_in_the_other_images(seed):
    draw = np.random.default_rng(seed)
    images = [
        evidence(
            place,
            *((*draw.integers(0, 3, 2).tolist(), float(draw.random())) for _ in range(draw.integers(0, 6))),
            shift=float(draw.choice([0.0, 0.02])),
            is_trained_on=bool(draw.integers(2)),
        )
        for place in range(int(draw.integers(5, 60)))
    ]

    def compute_score(image):
        group = [other for other in images if other.is_trained_on == image.is_trained_on]
        scores = [image.comparison.shift / labels.SHIFT_UNIT]
        for region in image.comparison.regions:
            pair = region[:2]
            others = sorted(
                max((r.evidence for r in other.comparison.regions if r[:2] == pair), default=0.0)
                for other in group
                if other is not image
            )[::-1]
            rank = int(len(group) * 0.05)
            usual = others[rank] if rank < len(others) else 0.0
            scores.append(region.evidence / (labels.USUAL_EVIDENCE + usual))
        return max(scores)

    suspects = labels.rank_images(images)
    assert [s.score for s in suspects] == pytest.approx(sorted(map(compute_score, images), reverse=True))
    for suspect in suspects:
        assert suspect.score == pytest.approx(compute_score(images[suspect.key.position]))


@pytest.mark.parametrize(("evidence", "shift", "kind"), [(0.1, 0.0, "suspicious regions"), (1e-4, 0.04, "")])
def test_regions_are_suspicious_by_their_own_score(evidence, shift, kind):
    region = labels.Region(0, 1, evidence, 0.01, (0, 0, 9, 9))
    compared = labels.Comparison((region,), shift, (0, 3), None)
    (suspect,) = labels.rank_images([labels.Suspect(Key("val", 0, "a"), None, compared)])
    assert suspect.score >= ranking.SUSPICIOUS
    assert ranking.explain_suspect(suspect, ["sky", "road"])[0] == kind


@pytest.fixture
def examined_scenes(tmp_path, monkeypatch):
    """Return a data set of scenes, and a function that examines it with a model that knows the truth."""
    root = make(tmp_path / "data", train=20, val=4)
    whole = folder.build("train", root=str(root), train_split=".")
    truth = {sample.image.tobytes(): sample.label for sample in map(whole.read, range(len(whole)))}
    predictor = SimpleNamespace(
        table=whole.table.reorder(whole.table.names[::-1], "the network"),
        bands=whole.bands,
        data={"name": "folder", "root": str(root), "train_split": "val"},
        probabilities=lambda image: soften(truth[image.tobytes()])[::-1],
    )
    monkeypatch.setattr(model.predictor, "load", lambda file, plugins: predictor)
    return root, lambda: examine(root, checkpoint="x.pt")


def test_planted_errors_are_first_in_the_ranking_and_reported(examined_scenes):
    root, examine = examined_scenes
    samples = [SCENES["train"].read(index) for index in range(3)]
    labels = [sample.label.copy() for sample in samples]
    thing = int(np.unique(labels[0])[1])
    labels[0][samples[0].label == 0], labels[0][samples[0].label == thing] = thing, 0
    labels[1][:10], labels[1][10:] = 255, samples[1].label[:-10]
    third = int(np.unique(labels[2])[1])
    labels[2][labels[2] == third] = (third + 4) % 10
    for index, label in enumerate(labels):
        write_pair(root, "train", f"train{index}x", samples[index].image, label)
    found = examine()
    content = json.loads((root / "out/doctor.json").read_text())
    assert {row["name"] for row in content["ranking"][:3]} == {"train0x", "train1x", "train2x"}
    assert len(content["ranking"]) == 24
    assert [row["trained_on"] for row in content["ranking"] if row["split"] == "val"] == [True] * 4
    assert not any(row["trained_on"] for row in content["ranking"] if row["split"] == "train")
    assert "trained on 4 of these 24 images" in content["model"]
    assert "train0x" in find(found, "exchanged classes")[1][0]
    assert "train1x" in find(found, "moved labels")[1][0]
    assert "train2x" in find(found, "suspicious regions")[1][0]
    classes = f"labeled {NAMES[(third + 4) % 10]}, predicted {NAMES[third]} "
    assert classes in find(found, "suspicious regions")[0].cases[0].text
    page = (root / "out/doctor.html").read_text()
    assert "Images by how likely their labels are wrong" in page
    assert page.count('<figure data-show="image">') == 24


def test_sound_labels_are_not_reported(examined_scenes):
    assert not {"exchanged classes", "moved labels", "suspicious regions"} & kinds(examined_scenes[1]())


@needs_chromium
@pytest.mark.medium
def test_page_works_in_a_browser_on_a_phone_and_in_the_dark(examined_scenes, tmp_path):
    root, examine = examined_scenes
    sample = SCENES["train"].read(2)
    write_pair(root, "train", "train2x", sample.image, np.where(sample.label == 0, 5, sample.label))
    examine()
    page = (root / "out/doctor.html").as_uri()
    shown = """return [...document.querySelectorAll('figure:has(.layers)')].map(f =>
        ['label', 'prediction'].filter(k => getComputedStyle(f.querySelector('.' + k)).opacity > 0))"""
    click = "document.querySelectorAll(arguments[0])[arguments[1]].click()"
    with browser(tmp_path) as tab:
        for width, is_dark in ((1280, False), (360, True)):
            tab.resize(width, 800)
            tab.dark(on=is_dark)
            tab.open(page)
            assert tab.errors() == []
            assert tab.run("return document.documentElement.scrollWidth") <= width
            assert tab.run(shown) == [[]] * 24
            tab.run(click, "figure .choice button", 1)
            assert tab.run(shown) == [["label"], *[[]] * 23]
            tab.run(click, "#everywhere button", 2)
            assert tab.run(shown) == [["prediction"]] * 24


def test_outlines_of_regions_are_drawn_on_pictures_of_other_sizes():
    numbers = np.zeros((30, 40), np.int32)
    numbers[10:20, 10:30] = 2
    drawn = page.draw_outlines(np.zeros((60, 80, 3), np.uint8), numbers, [2])
    assert (drawn[20, 40] == page.OUTLINE).all()
    assert not drawn[30, 40].any()
    assert not page.draw_outlines(np.zeros((60, 80, 3), np.uint8), numbers, [1]).any()


@pytest.mark.medium
def test_command_ranks_images_with_a_checkpoint(tmp_path):
    root = make(tmp_path / "data", train=6, val=3)
    settings = segkit.compose_settings(
        "train",
        ["data=folder", f"data.root={root}", "model=deeplabv3_demo", "sizes.base=160", "sizes.crop=64"],
    )
    dataset = segkit.build_dataset(settings)
    torch.manual_seed(0)
    network = segkit.build_model(settings, dataset.table.num_classes)
    segkit.save(network, tmp_path / "model.pt", settings=settings, table=dataset.table)

    def run(file, status):
        words = ("--root", root, "--checkpoint", file, "--output", tmp_path / "out", "--count", 4)
        return run_script("folder", "doctor", *words, "--export", "labelme", status=status)

    run(tmp_path / "model.pt", 0)
    content = json.loads((tmp_path / "out/doctor.json").read_text())
    assert len(content["ranking"]) == 9
    for kind in ("labels", "predictions"):
        exported = {file.stem for file in (tmp_path / "out/export/labelme" / kind).rglob("*.json")}
        assert exported == {row["name"] for row in content["ranking"][:4]}
    assert content["model"].startswith("The model was trained on 6 of these 9 images.")
    assert {row["trained_on"] for row in content["ranking"] if row["split"] == "val"} == {False}
    assert "none.pt" in run(tmp_path / "none.pt", 2)
    (root / "classes.csv").write_text((root / "classes.csv").read_text().replace("disc", "disk"))
    assert "the network has the classes" in run(tmp_path / "model.pt", 2)
