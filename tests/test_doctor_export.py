"""Images that the doctor exports for label tools come back through the importer."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from conftest import run_script
from planted import SCENES, make, write_pair
from segkit.data.datasets import folder
from segkit.data.label_map import LabelMap, load_builtin_label_map
from segkit.data.pairs import read_mask
from segkit.tools import import_labels as importer
from segkit.tools.doctor import export, outlines

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
SUFFIXES = {"cvat": "*.xml", "labelme": "*.json", "label_studio": "tasks.json"}


def paint(traced, shape):
    painted = np.full(shape, 254, np.uint8)
    for class_id, points in traced:
        runs = coco.frPyObjects([points.astype(float).ravel().tolist()], *shape)
        painted[coco.decode(coco.merge(runs)).astype(bool)] = class_id
    return painted


@pytest.mark.parametrize("seed", range(40))
def test_painted_outlines_are_the_label(seed):
    draw = np.random.default_rng(seed)
    height, width = (int(side) for side in draw.integers(1, 40, 2))
    label = draw.integers(0, draw.integers(1, 5), (height, width)).astype(np.uint8)
    if seed % 2:  # larger regions
        label = cv2.resize(label[::4, ::4].copy(), (width, height), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(paint(outlines.trace_label(label), label.shape), label)


def test_outline_of_a_square_has_its_corners_and_small_regions_are_left_out():
    label = np.zeros((10, 12), np.uint8)
    label[2:5, 3:9] = 7
    label[8, 8] = 1
    square = outlines.trace_label(label)[1]
    assert square.class_id == 7
    assert {tuple(point) for point in square.points.tolist()} == {(3, 2), (9, 2), (9, 5), (3, 5)}
    assert [outline.class_id for outline in outlines.trace_label(label, min_area=2)] == [0, 7]


def export_scenes(root, target, tool, predictions=()):
    """Export the training images of a folder with their masks, and return it with the common image folder."""
    dataset = folder.build("train", root=str(root))
    images = [
        export.trace_image(pair.image, dataset.read_label(index), prediction, note="look <here> & there")
        for index, (pair, prediction) in enumerate(zip(dataset.pairs, predictions, strict=True))
    ]
    base = root / "images"
    export.export_images(images, table=dataset.table, base=base, folder=target, tools=[tool])
    return dataset, base


@pytest.mark.parametrize("tool", export.TOOLS)
def test_exported_masks_and_predictions_come_back_through_the_importer(tmp_path, tool):
    root = make(tmp_path / "data", train=3, val=1)
    sample = SCENES["train"].read(7)
    write_pair(root, "train", "deep er/ü #1%", sample.image, sample.label)
    predictions = [np.full((120, 160), 2, np.uint8) for _ in range(4)]
    for number, prediction in enumerate(predictions):
        prediction[20 + number : 70, 30:90] = number
    dataset, base = export_scenes(root, tmp_path / "export", tool, predictions)
    table = LabelMap.read(tmp_path / "export/classes.csv", "folder")

    def come_back(files, name):
        report = importer.import_labels(tool, files, images=base, root=tmp_path / name, table=table)
        assert report.images == len(dataset)
        assert not report.skipped
        back = folder.build("train", root=str(tmp_path / name), train_split=".")
        assert set(back.names) == {f"train/{name}" for name in dataset.names}
        return {name.removeprefix("train/"): back.read(index) for index, name in enumerate(back.names)}

    found = sorted((tmp_path / "export" / tool).rglob(SUFFIXES[tool]))
    masks = [file for file in found if "predictions" not in str(file.relative_to(tmp_path))]
    samples = come_back(masks, "back")
    for index, name in enumerate(dataset.names):
        expected = dataset.read(index)
        np.testing.assert_array_equal(samples[name].label, expected.label)
        np.testing.assert_array_equal(samples[name].image, expected.image)
    if tool == "label_studio":
        tasks = json.loads(masks[0].read_text())
        for task in tasks:
            task["annotations"] = task.pop("predictions")
        masks[0].write_text(json.dumps(tasks))
        found = masks
    else:
        found = [file for file in found if file not in masks]
    samples = come_back(found, "predicted")
    for name, prediction in zip(dataset.names, predictions, strict=True):
        np.testing.assert_array_equal(samples[name].label, prediction)


def test_masks_of_a_published_data_set_come_back_with_its_ids(tmp_path):
    table = load_builtin_label_map("camvid")
    raw = np.repeat(np.arange(12, dtype=np.uint8), 5)[None].repeat(30, 0)
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), np.zeros((30, 60, 3), np.uint8))
    image = export.trace_image(tmp_path / "images/a.png", table.encode(raw, "a.png"))
    base = export.common_folder([image.file])
    export.export_images([image], table=table, base=base, folder=tmp_path / "out", tools=["labelme"])
    importer.import_labels(
        "labelme", [tmp_path / "out/labelme/labels/a.json"], images=base, root=tmp_path / "back", table=table
    )
    np.testing.assert_array_equal(read_mask(tmp_path / "back/masks/a.png", "ids"), raw)
    read = LabelMap.read(tmp_path / "back/classes.csv", "folder")
    assert [entry[:3] for entry in read.entries] == [entry[:3] for entry in table.entries]


def test_names_are_escaped_and_colors_are_kept(tmp_path):
    (tmp_path / "classes.csv").write_text('id,name,color\n0,"a<b>&""c",#010203\n1,d,#ff0000\n')
    table = LabelMap.read(tmp_path / "classes.csv", "folder")
    file = tmp_path / "<x>&.png"
    cv2.imwrite(str(file), np.zeros((8, 8, 3), np.uint8))
    image = export.trace_image(file, np.eye(8, dtype=np.uint8))
    export.export_images([image], table=table, base=tmp_path, folder=tmp_path / "out", tools=export.TOOLS)
    tree = ElementTree.parse(tmp_path / "out/cvat/labels.xml")
    labels = [(each.findtext("name"), each.findtext("color")) for each in tree.iter("label")]
    assert labels == [('a<b>&"c', "#010203"), ("d", "#ff0000")]
    assert tree.find("image").get("name") == "<x>&.png"
    config = ElementTree.parse(tmp_path / "out/label_studio/config.xml")
    assert [each.get("value") for each in config.iter("Label")] == ['a<b>&"c', "d"]
    assert not (tmp_path / "out/cvat/predictions.xml").exists()


def test_label_that_the_table_lacks_is_refused(tmp_path):
    root = make(tmp_path / "data", train=1, val=1)
    _, base = export_scenes(root, tmp_path / "export", "labelme", [None])
    (tmp_path / "few.csv").write_text("id,name\n0,ground\n")
    files = sorted((tmp_path / "export/labelme").rglob("*.json"))
    with pytest.raises(ValueError, match=r"--table has no .*unsure.*It has .*ground.*choose with --classes"):
        importer.import_labels(
            "labelme",
            files,
            images=base,
            root=tmp_path / "back",
            table=LabelMap.read(tmp_path / "few.csv", "folder"),
        )
    assert not (tmp_path / "back").exists()


def studio_region(kind, **value):
    value = {kind: ["disc" if kind == "ellipselabels" else "car"], **value} if value else {}
    return {"type": kind, "original_width": 40, "original_height": 20, "value": value}


TASKS = [
    {
        "data": {"image": "/data/upload/3/0123abcd-my%20photo.png"},
        "annotations": [
            {"was_cancelled": True, "result": [{"type": "brushlabels"}]},
            {
                "result": [
                    studio_region("rectanglelabels", x=25, y=50, width=50, height=25),
                    studio_region("ellipselabels", x=10, y=20, radiusX=5, radiusY=10),
                    studio_region("brushlabels"),
                    studio_region("rectanglelabels", x=80, y=10, width=10, height=10, rotation=90),
                ]
            },
        ],
    },
    {"data": {"image": "http://host/data/local-files/?d=sub/b.png"}, "annotations": []},
]


def test_label_studio_shapes_are_percentages(tmp_path):
    file = tmp_path / "tasks.json"
    file.write_text(json.dumps(TASKS))
    annotations = importer.READERS["label_studio"]([file], None)
    first, second = annotations.images
    assert (first.name, first.size, second.name, second.shapes) == ("my photo.png", (20, 40), "sub/b.png", [])
    assert list(annotations.labels) == ["car", "disc"]
    assert first.skipped == {"brushlabels": 1}
    rectangle, disc, turned = first.shapes
    np.testing.assert_allclose(rectangle.outlines[0], [(10, 10), (30, 10), (30, 15), (10, 15)])
    np.testing.assert_allclose(disc.outlines[0].min(0), (2, 2), atol=0.01)
    np.testing.assert_allclose(disc.outlines[0].max(0), (6, 6), atol=0.01)
    np.testing.assert_allclose(turned.outlines[0].min(0), (30, 2), atol=1e-9)  # turned about its top left
    np.testing.assert_allclose(turned.outlines[0].max(0), (32, 6), atol=1e-9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"not a Label Studio file: it must be a list of tasks"),
        ([{"data": {}}], r"task 1: not a Label Studio task \(KeyError 'annotations'\)"),
        ([{"data": {"n": 3}, "annotations": []}], r"task 1: data has no image"),
        ([5], r"task 1: not a Label Studio task"),
    ],
)
def test_other_files_are_refused_as_label_studio(tmp_path, content, message):
    file = tmp_path / "tasks.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        importer.READERS["label_studio"]([file], None)


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
    names = [
        each["data"]["image"] for each in json.loads((out / "export/label_studio/tasks.json").read_text())
    ]
    assert any(name.endswith("train1x.png") for name in names)
    words = ("--root", tmp_path / "back", "--table", out / "export/classes.csv", "--from", "cvat")
    files = ("--images", root / "images", out / "export/cvat/labels.xml")
    run_script("folder", "import", *words, *files)
    masks = sorted((tmp_path / "back/masks").rglob("train1x.png"))
    np.testing.assert_array_equal(read_mask(masks[0], "ids"), moved)
