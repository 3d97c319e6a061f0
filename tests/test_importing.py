"""Labels of other tools become masks: against pycocotools, Pillow, and points asked one by one."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as oracle
from pycocotools.coco import COCO

from conftest import run_command, run_script, write_image
from crafted import REFUSED
from runs import TINY
from segkit.data.label_map import LabelMap
from segkit.tools.import_labels import proposals, shapes
from segkit.tools.import_labels.conversion import import_labels
from segkit.tools.import_labels.readers import read_annotations

HEIGHT, WIDTH = 60, 80
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools


def draw_outline(draw, *, beyond=10):
    corners = int(draw.integers(3, 12))
    return np.round(draw.uniform(-beyond, (WIDTH + beyond, HEIGHT + beyond), (corners, 2)), 2)


def fill(outline):
    return oracle.decode(oracle.frPyObjects([outline.ravel().tolist()], HEIGHT, WIDTH))[..., 0] > 0


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_are_decoded_and_broken_ones_refused(seed):
    draw = np.random.default_rng(seed)
    mask = draw.random((int(draw.integers(2, 70)), int(draw.integers(2, 70)))) < draw.random()
    packed = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    runs = count_runs(mask)
    for counts in (packed, packed.decode(), runs):
        np.testing.assert_array_equal(shapes.decode_runs(counts, *mask.shape), mask)
    for broken in ("~~~", b"\xff0", runs[:-1], [*runs, -1], "0P", packed[:-1], b"", [True, "a"], [-1, 1]):
        with pytest.raises(ValueError, match="the run lengths do not make a mask of"):
            shapes.decode_runs(broken, *mask.shape)


def count_runs(mask):
    """Return the run lengths of a mask by columns, the first of zeros."""
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, mask.T.ravel(), 2]))).tolist()
    return [0, *runs] if mask[0, 0] else runs


def photograph(file, size=(HEIGHT, WIDTH), seed=0):
    write_image(file, np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


def coco_like(root, images=6, seed=0):
    """A COCO file with polygons of several parts, both kinds of run lengths, crowds, and things outside."""
    draw, annotations = np.random.default_rng(seed), []
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "tree"}]
    for image in range(images):
        photograph(root / f"photos/part {image % 2}/{image:03d}.png", seed=image)
        for _ in range(0 if image == 5 else int(draw.integers(2, 6))):
            kind = draw.integers(4)
            mask = fill(draw_outline(draw))
            packed = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
            shape = [draw_outline(draw).ravel().tolist() for _ in range(int(draw.integers(1, 3)))]
            if kind == 1:
                shape = {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
            elif kind == 2:
                shape = {"size": [HEIGHT, WIDTH], "counts": count_runs(mask)}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + image,
                    "category_id": int(draw.choice([7, 3, 90])),
                    "segmentation": shape,
                    "iscrowd": int(kind == 2),
                }
            )
    annotations.append({"id": 999, "image_id": 100, "category_id": 3, "segmentation": [], "iscrowd": 0})
    entries = [
        {"id": 100 + i, "file_name": f"part {i % 2}/{i:03d}.png", "height": HEIGHT, "width": WIDTH}
        for i in range(images)
    ]
    entries.append({"id": 900, "file_name": "lost.png", "height": 9, "width": 9})
    file = root / "instances.json"
    file.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": categories}))
    return file


def area_of(segmentation):
    """The area COCO's order is by: of run lengths their pixels, of polygons that of their outlines."""
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        return int(oracle.area(segmentation)) if isinstance(counts, str) else sum(counts[1::2])
    areas = []
    for part in segmentation:
        x, y = np.array(part).reshape(-1, 2).T
        areas.append(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)
    return sum(areas)


def test_coco_masks_equal_pycocotools(tmp_path, capsys):
    file, out = coco_like(tmp_path, images=12), tmp_path / "out"
    report = import_labels("coco", [file], images=tmp_path / "photos", root=out)
    capsys.readouterr()
    api = COCO(str(file))
    capsys.readouterr()
    ids = {3: 1, 7: 2, 90: 3}  # in the order of COCO's ids, after the background
    holes = crowds = 0
    for image in api.loadImgs(api.getImgIds()):
        if image["file_name"] == "lost.png":
            continue
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        things = [a for a in api.loadAnns(api.getAnnIds(image["id"])) if a["segmentation"]]
        for each in sorted(things, key=lambda a: (not a["iscrowd"], -area_of(a["segmentation"]))):
            expected[api.annToMask(each) > 0] = 255 if each["iscrowd"] else ids[each["category_id"]]
            crowds += each["iscrowd"]
            holes += isinstance(each["segmentation"], dict)
        stem = image["file_name"].removesuffix(".png")
        np.testing.assert_array_equal(cv2.imread(str(out / f"masks/{stem}.png"), -1), expected)
        assert (out / f"images/{stem}.png").read_bytes() == (tmp_path / f"photos/{stem}.png").read_bytes()
    assert LabelMap.read(out / "classes.csv", "folder").names == ["background", "cat", "dog", "tree"]
    assert (report.images, report.crowds, report.missing) == (12, crowds, ["lost.png"])
    assert report.skipped == {"without outline": 1}
    assert report.without_labels == ["part 1/005.png"]
    assert holes > 0
    assert report.hidden


def test_masks_of_many_labels_have_16_bits(tmp_path):
    """As LVIS has: every label keeps its class, crowds are not scored."""
    photograph(tmp_path / "photos/a.png")
    categories = [{"id": 10 + k, "name": f"thing {k}"} for k in range(400)]
    annotations = []
    for k in range(400):
        runs = {"size": [HEIGHT, WIDTH], "counts": [2 * k, 2, HEIGHT * WIDTH - 2 * k - 2]}
        shape = {"segmentation": runs, "iscrowd": int(k == 7)}
        annotations.append({"id": k + 1, "image_id": 1, "category_id": 10 + k, **shape})
    images = [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "all.json").write_text(json.dumps(content))
    out = tmp_path / "out"
    report = import_labels("coco", [tmp_path / "all.json"], images=tmp_path / "photos", root=out)
    raw = cv2.imread(str(out / "masks/a.png"), cv2.IMREAD_UNCHANGED)
    assert raw.dtype == np.uint16
    assert raw.T.ravel()[:800:2].tolist() == [65535 if k == 7 else k + 1 for k in range(400)]
    assert report.pixels["not scored"] == 2
    table = LabelMap.read(out / "classes.csv", "folder")
    ids = table.encode(raw, "a.png")
    assert table.num_classes == 401
    assert [int(k) for k in ids.T.ravel()[:6:2]] == [1, 2, 3]
    assert (ids == 32767).sum() == 2


@pytest.mark.medium
@pytest.mark.slow
def test_printed_command_trains_on_the_import(tmp_path):
    """Run the training command that the import prints."""
    file, out = coco_like(tmp_path), tmp_path / "out"
    where = ["--images", tmp_path / "photos", "--root", out]
    output = run_command("datasets/folder.py", "import", "--from", "coco", file, *where).stdout
    assert "6 images with masks" in output
    assert "crowds: " in output
    assert "missing, skipped: 1 image (lost.png)" in output
    words = output.strip().splitlines()[-1].split("to train: ")[1].split()
    assert words[:3] == ["python", "train_seg.py", "data=folder"]
    run = f"schedule.iterations=2 schedule.batch_size=2 run_dir={tmp_path}/runs run_name=a"
    trained = run_command(*words[1:], *TINY.split(), *run.split()).stdout
    assert "sizes.crop=32" in trained
    assert (tmp_path / "runs/a/best.pt").is_file()
    run_command("datasets/folder.py", "verify", "--root", out, *words[4:])


def draw_polygon(outline):
    canvas = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in outline], fill=1, outline=1)
    return np.array(canvas)


def assert_close(mask, expected):
    """Two rasterizations of one shape differ at most by the pixels of its outline."""
    edge = cv2.morphologyEx(expected.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    assert not ((mask != expected) & ~edge).any()
    assert (mask != expected).mean() < 0.06


def test_labelme_shapes_equal_pillow_drawing(tmp_path):
    outline = [(5.5, 4), (60, 10), (50, 50), (10, 40)]
    stamp, buffer = np.random.default_rng(0).random((10, 12)) < 0.5, io.BytesIO()
    Image.fromarray(stamp.astype(np.uint8) * 255).save(buffer, "PNG")
    stamped = np.pad(stamp, ((30, HEIGHT - 40), (20, WIDTH - 32)))
    circle = draw_polygon(shapes.ellipse(40, 30, 15, 15) - 0.5)
    drawn = {
        "polygon": (outline, draw_polygon(outline), {}),
        "rectangle": ([[60, 40], [20, 10]], draw_polygon([(20, 10), (59, 10), (59, 39), (20, 39)]), {}),
        "circle": ([[40, 30], [40, 45]], circle, {}),
        "mask": ([[20, 30], [31, 39]], stamped, {"mask": base64.b64encode(buffer.getvalue()).decode()}),
    }
    line = {"label": "rope", "points": [[0, 0], [9, 9]], "shape_type": "line"}
    for kind, (points, _, more) in drawn.items():
        photograph(tmp_path / f"in/{kind}.jpg")
        shape = {"label": "thing", "points": points, "shape_type": kind, **more}
        size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
        content = {"shapes": [shape, line], "imagePath": f"..\\x\\{kind}.jpg", **size}
        (tmp_path / f"in/{kind}.json").write_text(json.dumps(content))
    photograph(tmp_path / "in/unlabeled.jpg")
    files = sorted((tmp_path / "in").glob("*.json"))
    report = import_labels("labelme", files, images=tmp_path / "in", root=tmp_path / "out", empty="left-out")
    for kind, (_, expected, _) in drawn.items():
        mask = cv2.imread(str(tmp_path / f"out/masks/{kind}.png"), -1)
        if kind in ("rectangle", "mask"):
            np.testing.assert_array_equal(mask, expected)
        else:
            assert_close(mask, expected)
    assert report.skipped == {"line": 4}
    assert report.not_labeled == ["unlabeled.jpg"]


def test_cvat_shapes_overlap_by_z_order(tmp_path):
    photograph(tmp_path / "in/sub/a.png")
    text = """<?xml version="1.0"?><annotations><meta><task><labels>
      <label><name>road</name><color>#ff00ff</color></label><label><name>car</name><color>#0000ff</color></label>
      </labels></task></meta><image id="0" name="sub/a.png" width="80" height="60">
      <box label="car" xtl="10" ytl="10" xbr="30" ybr="20" z_order="3"/>
      <polygon label="road" points="0,0;80,0;80,60;0,60" z_order="0"/>
      <box label="car" xtl="40" ytl="20" xbr="60" ybr="40" rotation="45" z_order="1"/>
      <ellipse label="car" cx="20" cy="45" rx="10" ry="5" z_order="1"/>
      <mask label="road" rle="1, 2, 1" left="15" top="12" width="2" height="2" z_order="4"/>
      <polyline label="road" points="1,1;5,5"/><tag label="car"/></image></annotations>"""
    (tmp_path / "annotations.xml").write_text(text)
    out = tmp_path / "out"
    report = import_labels("cvat", [tmp_path / "annotations.xml"], images=tmp_path / "in", root=out)
    mask = cv2.imread(str(out / "masks/sub/a.png"), -1)
    expected = np.ones((60, 80), np.uint8)
    expected[draw_polygon(shapes.box(40, 20, 60, 40, degrees=45) - 0.5)] = 2
    expected[draw_polygon(shapes.ellipse(20, 45, 10, 5) - 0.5)] = 2
    expected[10:20, 10:30] = 2
    expected[12, 16] = expected[13, 15] = 1
    assert_close(mask == 2, (expected == 2))
    assert mask[12:14, 15:17].tolist() == [[2, 1], [1, 2]]
    assert LabelMap.read(out / "classes.csv", "x").colors.tolist()[1:] == [[255, 0, 255], [0, 0, 255]]
    assert report.skipped == {"polyline": 1, "tag": 1}
    assert report.hidden["car", "road"] > 300
    assert report.hidden["road", "car"] == 2


@pytest.mark.parametrize("kind", ["project", "version 1", "version 2"])
def test_via_regions(tmp_path, kind):
    photograph(tmp_path / "in/a.png")
    polygon = {"name": "polygon", "all_points_x": [5, 60, 50], "all_points_y": [4, 10, 50]}
    regions = [
        (polygon, {"class": "a", "n": "1"}),
        ({"name": "rect", "x": 60, "y": 40, "width": 10, "height": 15}, {"class": {"b": True, "c": False}}),
        ({"name": "point", "cx": 1, "cy": 1}, {"class": "a"}),
        ({"name": "circle", "cx": 20, "cy": 45, "r": 6}, {"class": ""}),
    ]
    entries = [{"shape_attributes": shape, "region_attributes": values} for shape, values in regions]
    numbered = {str(number): entry for number, entry in enumerate(entries)}
    content = {"a.png123": {"filename": "a.png", "regions": numbered if kind == "version 1" else entries}}
    file = tmp_path / "via.json"
    file.write_text(json.dumps({"_via_img_metadata": content} if kind == "project" else content))
    with pytest.raises(ValueError, match="Select the class with --attribute class or n"):
        import_labels("via", [file], images=tmp_path / "in", root=tmp_path / "out")
    report = import_labels("via", [file], images=tmp_path / "in", root=tmp_path / "out", attribute="class")
    mask = cv2.imread(str(tmp_path / "out/masks/a.png"), -1)
    assert_close(mask == 1, draw_polygon(np.array([(5, 4), (60, 10), (50, 50)]) - 0.5))
    np.testing.assert_array_equal(np.argwhere(mask == 2)[[0, -1]], [[40, 60], [54, 69]])
    assert report.skipped == {"point": 1, "without class": 1}
    assert LabelMap.read(tmp_path / "out/classes.csv", "x").names == ["background", "a", "b"]


def test_via_files_have_the_class_in_the_same_attribute(tmp_path):
    shape = {"name": "rect", "x": 60, "y": 40, "width": 10, "height": 15}
    for key in ("class", "id"):
        region = {"shape_attributes": shape, "region_attributes": {key: "1"}}
        content = {"a": {"filename": f"{key}.png", "regions": [region]}}
        (tmp_path / f"{key}.json").write_text(json.dumps(content))
    files = [tmp_path / "class.json", tmp_path / "id.json"]
    with pytest.raises(ValueError, match=r"id.json: --attribute class: unknown. The regions have id"):
        import_labels("via", files, images=tmp_path, root=tmp_path / "out")


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
    annotations = read_annotations("label_studio", [file])
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


def test_import_report_counts_crowds_and_hidden_pixels():
    ring = np.ones((9, 9), bool)
    ring[3:5, 3:5] = False
    drawn = [
        shapes.Shape("a", mask=ring, place=(-2, 50), z_order=1),
        shapes.Shape("a", [shapes.box(500, 500, 600, 600)], z_order=2),
        shapes.Shape("b", [shapes.box(0, 0, 80, 60)], is_crowd=True, z_order=9),
        shapes.Shape("b", [shapes.box(70, 50, 90, 90), np.array([[1.0, 2], [3, 4]])], z_order=3),
        shapes.Shape("b", mask=ring, place=(500, 500), z_order=3),
        shapes.Shape("c", [shapes.box(0, 0, 9, 9)]),
    ]
    image = shapes.LabeledImage("x", (HEIGHT, WIDTH), drawn)
    ids = shapes.MaskIds({"a": 1, "b": 2}, background=0, void=255)
    mask, hidden = shapes.paint_mask(image, ids)
    assert image.skipped == {"without a pixel in the image": 2, "of c": 1}
    assert hidden == {("a", "a crowd"): 9 * 7 - 4, ("b", "a crowd"): 100}
    assert (mask == 255).sum() == 60 * 80 - 59 - 100
    assert (mask[0:7, 50:59] == 1).sum() == 59
    drawn.append(shapes.Shape("b", [shapes.box(500, 1e30, np.inf, np.nan)]))
    with pytest.raises(ValueError, match="coordinates of b are out of range"):
        shapes.paint_mask(image, ids)


def labelme_file(file, image_path):
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = {"label": "thing", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
    file.write_text(json.dumps({"shapes": [shape], "imagePath": image_path}))
    return file


def test_labelme_image_paths_are_relative_to_the_json(tmp_path):
    files = []
    for folder in ("one", "two"):
        photograph(tmp_path / f"photos/{folder}/a.jpg")
        photograph(tmp_path / f"labels/{folder}/b.png")
        files.append(labelme_file(tmp_path / f"labels/{folder}/a.json", f"../../photos/{folder}/a.jpg"))
        files.append(labelme_file(tmp_path / f"labels/{folder}/b.json", "b.png"))
    for images in (tmp_path / "photos", tmp_path / "labels"):
        out = tmp_path / f"out of {images.name}"
        report = import_labels("labelme", files, images=images, root=out)
        assert (report.images, report.missing) == (4, [])
        for name in ("one/a", "one/b", "two/a", "two/b"):
            assert (out / f"masks/{name}.png").is_file()
        source = tmp_path / "photos/two/a.jpg"
        assert (out / "images/two/a.jpg").read_bytes() == source.read_bytes()


def test_failed_import_writes_nothing(tmp_path):
    photograph(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_text("not an image")
    files = [labelme_file(tmp_path / f"in/{name}.json", f"{name}.png") for name in "ab"]
    for _ in range(2):  # into a folder that does not exist, and into an earlier import
        before = {file: file.is_file() and file.read_bytes() for file in tmp_path.rglob("*")}
        with pytest.raises(ValueError, match=r"b.png: is damaged, cut short or not an image"):
            import_labels("labelme", files, images=tmp_path / "in", root=tmp_path / "deep/out")
        assert {file: file.is_file() and file.read_bytes() for file in tmp_path.rglob("*")} == before
        import_labels("labelme", files[:1], images=tmp_path / "in", root=tmp_path / "deep/out")


FAULTS = {
    "coco nothing.json": "no such file or folder",
    "coco text.json": "not a JSON file",
    "coco empty.json": "not a coco file",
    "cvat text.json": "not a cvat file",
    "cvat runs.xml": "runs of 4000000000000 pixels for a mask of 2x2",
    "labelme empty.json": "not a labelme file",
    "labelme bomb.json": "shape 1: Image size (3600000000 pixels) exceeds limit",
    "label_studio sizes.json": "task 1: regions of images of different sizes",
    "label_studio tasks.json": "task 1: not a Label Studio task",
    "via empty.json": "contains no labeled images",
    "coco instances.json --classes cow": "The labels are cat, dog, tree",
    "coco instances.json --images none": "no such folder",
    "coco escape.json": "is outside of --images",
    "coco lost.json": "cannot use any image of lost.json; missing, skipped: 1 image",
    "coco size.json": "size differs from that in the annotations, skipped: 1 image",
}


@pytest.mark.medium
def test_invalid_label_files_are_refused_in_one_line(tmp_path, monkeypatch):
    coco_like(tmp_path, images=1)
    (tmp_path / "text.json").write_text("no json")
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "tasks.json").write_text('[{"data": {"image": "a.png"}}]')
    mask = '<mask label="a" rle="4000000000000" left="0" top="0" width="2" height="2"/>'
    image = f'<image name="a.png" width="2" height="2">{mask}</image>'
    (tmp_path / "runs.xml").write_text(f"<annotations>{image}</annotations>")
    data, _ = REFUSED["png of 3.6 billion"]
    stamp = {"shape_type": "mask", "points": [[0, 0]], "mask": base64.b64encode(data).decode()}
    (tmp_path / "bomb.json").write_text(json.dumps({"shapes": [stamp]}))
    regions = [studio_region("rectanglelabels", x=0, y=0, width=9, height=9) for _ in range(2)]
    regions[0]["original_width"] = 99
    task = {"data": {"image": "a.png"}, "annotations": [{"result": regions}]}
    (tmp_path / "sizes.json").write_text(json.dumps([task]))
    for kind, name in (("escape", "../a.png"), ("lost", "a.png"), ("size", "part 0/000.png")):
        images = [{"id": 1, "file_name": name, "height": 1, "width": 1}]
        content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]}
        (tmp_path / f"{kind}.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    for words, message in FAULTS.items():
        given = ["--from", *words.split()]
        images = [] if "--images" in given else ["--images", "photos"]
        output = run_script("folder", "import", "--root", "out", *given, *images, status=2)
        assert message in output
        assert len(output.strip().splitlines()) == 1
    assert not Path("out").exists()


@pytest.mark.parametrize("has_colors", [False, True])
def test_proposed_table_reads_its_masks(tmp_path, has_colors):
    draw, masks = np.random.default_rng(0), {}
    colors = draw.integers(0, 256, (6, 3), np.uint8)
    for index in range(3):
        chosen = draw.integers(0, 6, (9, 9), np.uint8)
        masks[tmp_path / f"{index}.png"] = colors[chosen] if has_colors else chosen * 20
    for file, mask in masks.items():
        write_image(file, mask)
    table = proposals.propose_label_map(proposals.count_mask_values(list(masks)))
    (tmp_path / "classes.csv").write_text(table.to_csv())
    read = LabelMap.read(tmp_path / "classes.csv", "folder")
    for file, mask in masks.items():
        assert len(np.unique(read.encode(mask, file))) == len(np.unique(mask.reshape(81, -1), axis=0))


def test_proposals_for_binary_void_and_instance_masks():
    binary = proposals.propose_label_map(proposals.Counter([0, 255]))
    assert [(e.id, e.name, e.ignore) for e in binary.entries] == [
        (0, "background", False),
        (255, "object", False),
    ]
    for values in ([0, 1, 255], [(0, 0, 0), (9, 9, 9), (255, 255, 255)]):
        table = proposals.propose_label_map(proposals.Counter(values))
        assert [e.ignore for e in table.entries] == [False, False, True]
    with pytest.raises(ValueError, match=r"300 different values\. If these are instance ids"):
        proposals.propose_label_map(proposals.Counter(range(300)))
    instances = np.array([[0, 7, 24000, 24001], [26005, 999, 1000, 33011]], np.uint16)
    assert proposals.split_instance_ids(instances, 1000).tolist() == [[0, 7, 24, 24], [26, 999, 1, 33]]


@pytest.mark.medium
def test_instance_ids_are_converted_for_training(tmp_path):
    for index in range(2):
        photograph(tmp_path / f"images/{index}.png", (8, 8))
        ids = np.array([[0, 1001, 1002, 2005]] * 8, np.uint16).repeat(2, axis=1)
        write_image(tmp_path / f"masks/{index}.png", ids)
    output = run_script("folder", "classes", "--root", tmp_path, "--divide", 1000)
    assert "data.masks='masks_of_classes/*'" in output
    read = LabelMap.read(tmp_path / "classes.csv", "folder")
    assert [entry.id for entry in read.entries] == [0, 1, 2]
    splits = ["data.train_split=50%", "data.val_split=50%"]
    run_script("folder", "verify", "--root", tmp_path, "data.masks=masks_of_classes/*", *splits)
    assert Path(tmp_path / "masks_of_classes/0.png").is_file()
