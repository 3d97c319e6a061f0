"""Read the files of label tools as labeled images."""

from __future__ import annotations

import base64
import contextlib
import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import cv2
import numpy as np

from segkit.runtime.files import read_text
from segkit.tools.import_labels.shapes import (
    Annotations,
    LabeledImage,
    Shape,
    box,
    decode_runs,
    ellipse,
    parse_outline,
    rotate_points,
)


@contextlib.contextmanager
def name_errors(place: object, kind: str) -> Iterator[None]:
    """Raise errors about the content of a file as ``ValueError`` with the place in it."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, csv.Error) as error:
        raise ValueError(f"{place}: not a {kind} ({type(error).__name__} {error})") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from error


def read_json(file: Path) -> Any:
    """Return the content of a JSON file, or raise ``ValueError``."""
    try:
        return json.loads(read_text(file, most=1 << 32))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a JSON file ({error})") from error


def read_coco(files: Sequence[Path], _: str | None = None) -> Annotations:
    """Read COCO instances: polygons, run lengths and crowds; small shapes cover large ones."""
    labels: dict[str, str] = {}
    images: list[LabeledImage] = []
    for file in files:
        with name_errors(file, "COCO file"):
            content = read_json(file)
            if not isinstance(content, dict) or not {"images", "categories", "annotations"} <= content.keys():
                raise ValueError("not a COCO file: it needs images, categories and annotations")
            names = {each["id"]: str(each["name"]) for each in content["categories"]}
            labels |= {names[key]: "" for key in sorted(names)}
            by_id = {}
            for each in content["images"]:
                size = int(each["height"]), int(each["width"])
                by_id[each["id"]] = LabeledImage(each["file_name"], size)
            images += by_id.values()
            for each in content["annotations"]:
                with name_errors(f"annotation {each['id']}", "COCO annotation"):
                    if each["image_id"] not in by_id:
                        raise ValueError(f"there is no image {each['image_id']}")
                    _add_coco(by_id[each["image_id"]], each, names[each["category_id"]])
    return Annotations(labels, images)


def _add_coco(image: LabeledImage, each: Mapping[str, Any], label: str) -> None:
    segmentation = each.get("segmentation")
    if not segmentation:
        image.skipped["without outline"] += 1
        return
    shape = Shape(label, is_crowd=bool(each.get("iscrowd")))
    if isinstance(segmentation, Mapping):
        height, width = segmentation["size"]
        if (height, width) != image.size:
            raise ValueError(f"a mask of {width}x{height} in an image of another size")
        shape.mask = decode_runs(segmentation["counts"], height, width)
        shape.height = -int(shape.mask.sum())
    else:
        shape.outlines = [parse_outline(part) for part in segmentation]
        shape.height = -sum(cv2.contourArea(part.astype(np.float32)) for part in shape.outlines)
    image.shapes.append(shape)


def read_labelme(files: Sequence[Path], _: str | None = None) -> Annotations:
    """Read labelme: one JSON per image, whose ``imagePath`` is relative to the JSON."""
    images = []
    shared = Path(os.path.commonpath([file.absolute().parent for file in files]))
    for file in files:
        with name_errors(file, "labelme file"):
            content = read_json(file)
            if not isinstance(content, dict) or "shapes" not in content:
                raise ValueError("not a labelme file: it has no shapes")
            path = Path(str(content.get("imagePath") or f"{file.stem}.jpg").replace("\\", "/"))
            height, width = content.get("imageHeight"), content.get("imageWidth")
            size = (int(height), int(width)) if height and width else None
            image = LabeledImage((file.absolute().parent.relative_to(shared) / path.name).as_posix(), size)
            if (file.parent / path).is_file():
                image.file = (file.parent / path).resolve()
            for number, each in enumerate(content["shapes"], start=1):
                with name_errors(f"shape {number}", "labelme shape"):
                    _add_labelme(image, each)
            images.append(image)
    return Annotations(_list_labels(images), images)


def _add_labelme(image: LabeledImage, each: Mapping[str, Any]) -> None:
    kind = each.get("shape_type") or "polygon"
    points = parse_outline(each.get("points", ()))
    shape = Shape(str(each.get("label")))
    if kind == "mask":
        left, top = points.min(0).astype(int).tolist()
        shape.mask, shape.place = _decode_labelme_mask(each["mask"]), (top, left)
    elif kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        shape.outlines = [box(left, top, right, bottom)]
    elif kind == "circle" and len(points) == 2:
        radius = float(np.linalg.norm(points[1] - points[0]))
        shape.outlines = [ellipse(float(points[0, 0]), float(points[0, 1]), radius, radius)]
    elif kind in ("polygon", "rotation", "oriented_rectangle") and len(points) > 2:
        shape.outlines = [points]
    else:
        image.skipped[kind] += 1
        return
    image.shapes.append(shape)


def _decode_labelme_mask(text: str) -> np.ndarray:
    stored = np.frombuffer(base64.b64decode(text), np.uint8)
    mask = cv2.imdecode(stored, cv2.IMREAD_UNCHANGED) if stored.size else None
    if mask is None or mask.ndim != 2:
        raise ValueError("the mask is not a gray image in base64")
    return mask > 0


def _list_labels(images: Sequence[LabeledImage]) -> dict[str, str]:
    """Return the labels of all shapes in alphabetical order, without colors."""
    return dict.fromkeys(sorted({shape.label for image in images for shape in image.shapes}), "")


def read_cvat(files: Sequence[Path], _: str | None = None) -> Annotations:
    """Read CVAT for images 1.1 (XML); shapes with a higher ``z_order`` are on top."""
    labels: dict[str, str] = {}
    images: list[LabeledImage] = []
    for file in files:
        try:
            root = ElementTree.parse(file).getroot()  # expat refuses bombs
        except (OSError, ElementTree.ParseError) as error:
            raise ValueError(f"{file}: not an XML file ({error})") from error
        if root.tag != "annotations" or root.find("track") is not None:
            raise ValueError(f"{file}: not 'CVAT for images 1.1'. Export the task in this format")
        for label in root.iter("label"):
            if name := label.findtext("name"):
                labels.setdefault(name, label.findtext("color") or "")
        for element in root.iter("image"):
            with name_errors(f"{file}, image {element.get('name')}", "CVAT image"):
                size = int(element.attrib["height"]), int(element.attrib["width"])
                image = LabeledImage(element.attrib["name"], size)
                for number, shape in enumerate(element, start=1):
                    with name_errors(f"shape {number}", f"CVAT {shape.tag}"):
                        _add_cvat(image, shape)
                images.append(image)
    labels |= {label: "" for label in _list_labels(images) if label not in labels}
    return Annotations(labels, images)


def _add_cvat(image: LabeledImage, element: ElementTree.Element) -> None:
    at = element.attrib
    shape = Shape(at.get("label", ""), height=int(at.get("z_order", 0)))
    degrees = float(at.get("rotation", 0))
    if element.tag == "polygon":
        shape.outlines = [parse_outline([pair.split(",") for pair in at["points"].split(";")])]
    elif element.tag == "box":
        shape.outlines = [box(*(float(at[key]) for key in ("xtl", "ytl", "xbr", "ybr")), degrees=degrees)]
    elif element.tag == "ellipse":
        shape.outlines = [ellipse(*(float(at[key]) for key in ("cx", "cy", "rx", "ry")), degrees=degrees)]
    elif element.tag == "mask":
        height, width = int(at["height"]), int(at["width"])
        runs = [int(count) for count in at["rle"].split(",")]
        if min(runs) < 0 or sum(runs) != height * width:
            raise ValueError(f"runs of {sum(runs)} pixels for a mask of {width}x{height}")
        shape.mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        shape.place = int(at["top"]), int(at["left"])
    else:
        image.skipped[element.tag] += 1
        return
    image.shapes.append(shape)


def read_label_studio(files: Sequence[Path], _: str | None = None) -> Annotations:
    """Read the JSON of Label Studio: polygons, rectangles, ellipses of the last annotation of each task."""
    images = []
    for file in files:
        with name_errors(file, "Label Studio file"):
            content = read_json(file)
            if not isinstance(content, list):
                raise ValueError("not a Label Studio file: it must be a list of tasks. Export as JSON")
            for number, task in enumerate(content, start=1):
                with name_errors(f"task {number}", "Label Studio task"):
                    done = [each for each in task["annotations"] if not each.get("was_cancelled")]
                    image = LabeledImage(_label_studio_name(task["data"]), None)
                    for region in done[-1]["result"] if done else ():
                        _add_label_studio(image, region)
                    images.append(image)
    return Annotations(_list_labels(images), images)


def _label_studio_name(data: Mapping[str, Any]) -> str:
    """Return the path of an image below the served folder; uploads lose the random start of their names."""
    values = [data["image"]] if "image" in data else [v for v in data.values() if isinstance(v, str)]
    if not values:
        raise ValueError("data has no image")
    address = urlsplit(values[0])
    if served := parse_qs(address.query).get("d"):
        return served[0]
    name = unquote(address.path)
    if "/data/upload/" in name:
        return re.sub(r"^[0-9a-f]{8}-", "", name.rpartition("/")[2])
    return name.lstrip("/")


def _add_label_studio(image: LabeledImage, region: Mapping[str, Any]) -> None:
    kind, value = region["type"], region.get("value", {})
    if kind not in ("polygonlabels", "rectanglelabels", "ellipselabels") or not value.get(kind):
        image.skipped[kind] += 1
        return
    size = int(region["original_height"]), int(region["original_width"])
    if image.size not in (None, size):
        raise ValueError("regions of different image sizes")
    image.size = size
    scale = np.array(size[::-1]) / 100  # values are percentages
    degrees = float(value.get("rotation") or 0)
    if kind == "polygonlabels":
        outline = parse_outline(value["points"]) * scale
    else:
        x, y = (float(each) for each in scale * (value["x"], value["y"]))
        if kind == "ellipselabels":
            rx, ry = (float(each) for each in scale * (value["radiusX"], value["radiusY"]))
            outline = ellipse(x, y, rx, ry, degrees=degrees)
        else:
            w, h = (float(each) for each in scale * (value["width"], value["height"]))
            outline = rotate_points(box(x, y, x + w, y + h), degrees, about=(x, y))
    image.shapes.append(Shape(str(value[kind][0]), [outline]))


Region = tuple[Mapping[str, Any], Mapping[str, Any]]  # shape, attributes


def read_via(files: Sequence[Path], attribute: str | None = None) -> Annotations:
    """Read VGG Image Annotator 1 and 2, JSON or CSV; an attribute of the regions is the class."""
    entries = [(file, *entry) for file in files for entry in _via_entries(file)]
    keys = Counter(key for _, _, regions in entries for _, attributes in regions for key in attributes)
    if attribute is None and len(keys) > 1:
        raise ValueError(
            f"{files[0]}: several region attributes. Select the class with --attribute {' or '.join(keys)}"
        )
    key = attribute or next(iter(keys), "class")
    if keys and key not in keys:
        raise ValueError(f"--attribute {key}: unknown. The regions have {', '.join(keys)}")
    images: dict[str, LabeledImage] = {}
    for file, name, regions in entries:
        image = images.setdefault(name, LabeledImage(name, None))
        for number, (shape, attributes) in enumerate(regions, start=1):
            label = attributes.get(key)
            if isinstance(label, Mapping):  # a checkbox
                label = "+".join(sorted(name for name, chosen in label.items() if chosen))
            with name_errors(f"{file}, {name}, region {number}", f"VIA {shape.get('name')}"):
                outline = _via_outline(shape)
            if outline is None:
                image.skipped[str(shape.get("name"))] += 1
            elif label in (None, ""):
                image.skipped[f"without {key}"] += 1
            else:
                image.shapes.append(Shape(str(label), [outline]))
    return Annotations(_list_labels(list(images.values())), list(images.values()))


def _via_entries(file: Path) -> list[tuple[str, list[Region]]]:
    """Return the regions of each image of a file, by its name; a line of CSV has one region."""
    entries = []
    with name_errors(file, "VIA file"):
        if file.suffix.lower() == ".csv":
            for row in csv.DictReader(read_text(file).splitlines()):
                shape = json.loads(row.get("region_shape_attributes") or "{}")
                attributes = json.loads(row.get("region_attributes") or "{}")
                name = row["filename"] if "filename" in row else row["#filename"]
                entries.append((name, [(shape, attributes)] if shape else []))
            return entries
        content = read_json(file)
        for each in content.get("_via_img_metadata", content).values():
            regions = each.get("regions") or []
            regions = regions.values() if isinstance(regions, Mapping) else regions  # VIA 1 numbers them
            entries.append(
                (each["filename"], [(r["shape_attributes"], r["region_attributes"]) for r in regions])
            )
    return entries


def _via_outline(shape: Mapping[str, Any]) -> np.ndarray | None:
    """Return the outline of a region, None if it has no area."""
    kind = shape["name"]
    if kind == "polygon":
        return parse_outline(list(zip(shape["all_points_x"], shape["all_points_y"], strict=True)))
    if kind == "rect":
        left, top = float(shape["x"]), float(shape["y"])
        return box(left, top, left + float(shape["width"]), top + float(shape["height"]))
    if kind in ("circle", "ellipse"):
        rx, ry = (float(shape.get("r", shape.get(key, 0))) for key in ("rx", "ry"))
        turn = np.degrees(float(shape.get("theta", 0)))  # radians
        return ellipse(float(shape["cx"]), float(shape["cy"]), rx, ry, degrees=turn)
    return None


READERS: dict[str, Callable[[Sequence[Path], str | None], Annotations]] = {
    "coco": read_coco,
    "labelme": read_labelme,
    "cvat": read_cvat,
    "label_studio": read_label_studio,
    "via": read_via,
}
