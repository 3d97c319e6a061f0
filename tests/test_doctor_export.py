"""Images that the doctor exports for label tools come back through the importer."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from conftest import run_script, write_image
from planted import SCENES, make, write_pair
from segkit.data.datasets import folder
from segkit.data.label_map import LabelMap, load_builtin_label_map
from segkit.data.pairs import read_mask
from segkit.tools.doctor import export
from segkit.tools.import_labels.conversion import import_labels

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
SUFFIXES = {"cvat": "*.xml", "labelme": "*.json", "label_studio": "tasks.json"}


def paint(polygons, shape):
    painted = np.full(shape, 254, np.uint8)
    for class_id, points in polygons:
        runs = coco.frPyObjects([points.astype(float).ravel().tolist()], *shape)
        painted[coco.decode(coco.merge(runs)).astype(bool)] = class_id
    return painted


@pytest.mark.parametrize("seed", range(40))
def test_painted_polygons_are_the_label(seed):
    draw = np.random.default_rng(seed)
    height, width = (int(side) for side in draw.integers(1, 40, 2))
    label = draw.integers(0, draw.integers(1, 5), (height, width)).astype(np.uint8)
    if seed % 2:  # larger regions
        label = cv2.resize(label[::4, ::4].copy(), (width, height), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(paint(export.trace_label(label, range(5)), label.shape), label)


def test_polygon_of_a_square_has_its_corners_and_small_regions_are_left_out():
    label = np.zeros((10, 12), np.uint8)
    label[2:5, 3:9] = 7
    label[8, 8] = 1
    polygons = export.trace_label(label, ["ground", "dot", "not scored"], min_area=2)
    assert [name for name, _ in polygons] == ["ground", "not scored"]
    assert {tuple(point) for point in polygons[1][1].tolist()} == {(3, 2), (9, 2), (9, 5), (3, 5)}


@pytest.mark.parametrize("tool", export.TOOLS)
def test_exported_masks_and_predictions_come_back_through_the_importer(tmp_path, tool):
    root, out = make(tmp_path / "data", train=3, val=1), tmp_path / "export"
    sample = SCENES["train"].read(7)
    write_pair(root, "train", "deep er/ü #1%", sample.image, sample.label)
    dataset, predictions = folder.build("train", root=str(root)), {}
    for number, name in enumerate(dataset.names):
        predictions[name] = np.full((120, 160), 2, np.uint8)
        predictions[name][20 + number : 70, 30:90] = number
    images = [
        export.ExportedImage(pair.image, dataset.read_label(index), predictions[pair.name], "see <a> & b")
        for index, pair in enumerate(dataset.pairs)
    ]
    base = root / "images"
    assert export.export_images(images, table=dataset.table, base=base, folder=out, tools=[tool]) == 4
    table = LabelMap.read(out / "classes.csv", "folder")

    def import_samples(files, name):
        report = import_labels(tool, files, images=base, root=tmp_path / name, table=table)
        assert (report.images, report.skipped) == (len(dataset), {})
        back = folder.build("train", root=str(tmp_path / name), train_split=".")
        return {name.removeprefix("train/"): back.read(index) for index, name in enumerate(back.names)}

    found = sorted((out / tool).rglob(SUFFIXES[tool]))
    masks = [file for file in found if "predictions" not in str(file.relative_to(out))]
    samples = import_samples(masks, "back")
    for index, name in enumerate(dataset.names):
        expected = dataset.read(index)
        np.testing.assert_array_equal(samples[name].label, expected.label)
        np.testing.assert_array_equal(samples[name].image, expected.image)
    predicted = [file for file in found if file not in masks]
    if tool == "label_studio":
        tasks = json.loads(masks[0].read_text())
        for task in tasks:
            task["annotations"] = task.pop("predictions")
        masks[0].write_text(json.dumps(tasks))
        predicted = masks
    samples = import_samples(predicted, "predicted")
    for name, prediction in predictions.items():
        np.testing.assert_array_equal(samples[name].label, prediction)


def test_masks_of_a_published_data_set_come_back_with_its_ids(tmp_path):
    table = load_builtin_label_map("camvid")
    raw = np.repeat(np.arange(12, dtype=np.uint8), 5)[None].repeat(30, 0)
    write_image(tmp_path / "images/a.png", np.zeros((30, 60, 3), np.uint8))
    image = export.ExportedImage(tmp_path / "images/a.png", table.encode(raw, "a.png"), None, "")
    base = export.common_folder([image.file])
    export.export_images([image], table=table, base=base, folder=tmp_path, tools=["labelme"])
    file, back = tmp_path / "labelme/labels/a.json", tmp_path / "back"
    import_labels("labelme", [file], images=base, root=back, table=table)
    np.testing.assert_array_equal(read_mask(back / "masks/a.png", "ids"), raw)
    read = LabelMap.read(back / "classes.csv", "folder")
    assert [entry[:3] for entry in read.entries] == [entry[:3] for entry in table.entries]
    (tmp_path / "few.csv").write_text("id,name\n0,Sky\n")
    few, root = LabelMap.read(tmp_path / "few.csv", "folder"), tmp_path / "few"
    with pytest.raises(ValueError, match=r"--table has no .*void\. It has .*Sky; choose with --classes"):
        import_labels("labelme", [file], images=base, root=root, table=few)
    assert not root.exists()


def test_names_are_escaped_and_colors_are_kept(tmp_path):
    (tmp_path / "classes.csv").write_text('id,name,color\n0,"a<b>&""c",#010203\n1,d,#ff0000\n')
    table = LabelMap.read(tmp_path / "classes.csv", "folder")
    image = export.ExportedImage(tmp_path / "<x>&.png", np.eye(8, dtype=np.uint8), None, "")
    export.export_images([image], table=table, base=tmp_path, folder=tmp_path / "out", tools=export.TOOLS)
    tree = ElementTree.parse(tmp_path / "out/cvat/labels.xml")
    labels = [(each.findtext("name"), each.findtext("color")) for each in tree.iter("label")]
    assert labels == [('a<b>&"c', "#010203"), ("d", "#ff0000")]
    assert tree.find("image").get("name") == "<x>&.png"
    config = ElementTree.parse(tmp_path / "out/label_studio/config.xml")
    assert [each.get("value") for each in config.iter("Label")] == ['a<b>&"c', "d"]
    assert not (tmp_path / "out/cvat/predictions.xml").exists()


@pytest.mark.medium
def test_commands_export_misfits_and_import_them(tmp_path):
    root = make(tmp_path / "data", train=12, val=3)
    sample = SCENES["train"].read(1)
    moved = np.full_like(sample.label, 255)
    moved[:, 14:] = sample.label[:, :-14]
    write_pair(root, "train", "train1x", sample.image, moved)
    out = tmp_path / "out"
    words = ("--root", root, "--output", out, "--export", "cvat", "label_studio")
    output = run_script("folder", "doctor", *words, status=1)
    assert re.search(r"\d+ images? exported to .*export; corrected files come back with", output)
    assert "train1x.png" in (out / "export/label_studio/tasks.json").read_text()
    words = ("--root", tmp_path / "back", "--table", out / "export/classes.csv", "--from", "cvat")
    files = ("--images", root / "images", out / "export/cvat/labels.xml")
    run_script("folder", "import", *words, *files)
    (mask,) = (tmp_path / "back/masks").rglob("train1x.png")
    np.testing.assert_array_equal(read_mask(mask, "ids"), moved)
