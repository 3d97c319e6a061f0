"""Read the files of label tools as labeled images."""

from __future__ import annotations

import base64
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


def read_json(file: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ValueError: the file is not JSON.
    """
    try:
        return json.loads(read_text(file, most=1 << 32))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not a JSON file ({error})") from error


def read_coco(files: Sequence[Path], _: str | None = None) -> Annotations:
    """Read COCO instances: polygons, run lengths and crowds; small shapes cover large ones."""
    labels: dict[str, str] = {}
    images: dict[tuple[int, Any], LabeledImage] = {}
    for number, file in enumerate(files):
        content = read_json(file)
        if not isinstance(content, dict) or not {"images", "categories", "annotations"} <= content.keys():
            raise ValueError(f"{file}: not a COCO file: it needs images, categories and annotations")
        try:
            names = {each["id"]: str(each["name"]) for each in content["categories"]}
            labels |= {names[key]: "" for key in sorted(names)}
            for each in content["images"]:
                size = int(each["height"]), int(each["width"])
                images[number, each["id"]] = LabeledImage(each["file_name"], size)
            for each in content["annotations"]:
                place = f"{file}, annotation {each['id']}"
                image = images.get((number, each["image_id"]))
                if image is None:
                    raise ValueError(f"{place}: there is no image {each['image_id']}")
                _add_coco(image, each, names[each["category_id"]], place)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file}: not a COCO file: {type(error).__name__} {error}") from error
    return Annotations(labels, list(images.values()))


def _add_coco(image: LabeledImage, each: Mapping[str, Any], label: str, place: str) -> None:
    segmentation = each.get("segmentation")
    shape = Shape(label, is_crowd=bool(each.get("iscrowd")))
    if not segmentation:
        image.skipped["without outline"] += 1
        return
    if isinstance(segmentation, Mapping):
        height, width = segmentation["size"]
        if (height, width) != image.size:
            raise ValueError(f"{place}: a mask of {width}x{height} in an image of another size")
        try:
            shape.mask = decode_runs(segmentation["counts"], height, width)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        area = int(shape.mask.sum())
    else:
        shape.outlines = [parse_outline(part, place) for part in segmentation]
        area = sum(cv2.contourArea(part.astype(np.float32)) for part in shape.outlines)
    shape.height = -area
    image.shapes.append(shape)


def read_labelme(files: Sequence[Path], _: str | None = None) -> Annotations:
    """Read labelme: one JSON per image, whose ``imagePath`` is relative to the JSON."""
    images, labels = [], Counter[str]()
    shared = Path(os.path.commonpath([file.absolute().parent for file in files]))
    for file in files:
        content = read_json(file)
        if not isinstance(content, dict) or "shapes" not in content:
            raise ValueError(f"{file}: not a labelme file: it has no shapes")
        path = Path(str(content.get("imagePath") or f"{file.stem}.jpg").replace("\\", "/"))
        height, width = content.get("imageHeight"), content.get("imageWidth")
        size = (int(height), int(width)) if height and width else None
        image = LabeledImage((file.absolute().parent.relative_to(shared) / path.name).as_posix(), size)
        if (file.parent / path).is_file():
            image.file = (file.parent / path).resolve()
        for number, each in enumerate(content["shapes"]):
            kind, place = each.get("shape_type") or "polygon", f"{file}, shape {number + 1}"
            points = parse_outline(each.get("points", ()), place)
            shape = Shape(str(each.get("label")), height=number)
            if kind == "mask":
                shape.mask, (left, top) = _labelme_mask(each, place), points.min(0).astype(int).tolist()
                shape.place = top, left
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
                continue
            labels[shape.label] += 1
            image.shapes.append(shape)
        images.append(image)
    return Annotations(dict.fromkeys(sorted(labels), ""), images)


def _labelme_mask(each: Mapping[str, Any], place: str) -> np.ndarray:
    try:
        stored = np.frombuffer(base64.b64decode(each["mask"]), np.uint8)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{place}: the mask is not an image in base64") from error
    mask = cv2.imdecode(stored, cv2.IMREAD_UNCHANGED) if stored.size else None
    if mask is None or mask.ndim != 2:
        raise ValueError(f"{place}: the mask is not a gray image")
    return mask > 0


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
            try:
                size = int(element.attrib["height"]), int(element.attrib["width"])
                image = LabeledImage(element.attrib["name"], size)
                for number, shape in enumerate(element):
                    _add_cvat(image, shape, number)
            except (KeyError, ValueError) as error:
                if isinstance(error, ValueError):
                    text = error
                else:
                    text = f"something has no {error}"
                raise ValueError(f"{file}, image {element.get('name')}: {text}") from error
            images.append(image)
    labels |= {shape.label: "" for image in images for shape in image.shapes if shape.label not in labels}
    return Annotations(labels, images)


def _add_cvat(image: LabeledImage, element: ElementTree.Element, number: int) -> None:
    at = element.attrib
    shape = Shape(at.get("label", ""), height=int(at.get("z_order", 0)) + number * 1e-6)
    degrees, place = float(at.get("rotation", 0)), f"shape {number + 1}"
    if element.tag == "polygon":
        shape.outlines = [parse_outline([pair.split(",") for pair in at["points"].split(";")], place)]
    elif element.tag == "box":
        shape.outlines = [box(*(float(at[key]) for key in ("xtl", "ytl", "xbr", "ybr")), degrees=degrees)]
    elif element.tag == "ellipse":
        shape.outlines = [ellipse(*(float(at[key]) for key in ("cx", "cy", "rx", "ry")), degrees=degrees)]
    elif element.tag == "mask":
        height, width = int(at["height"]), int(at["width"])
        runs = [int(count) for count in at["rle"].split(",")]
        if min(runs) < 0 or sum(runs) != height * width:
            raise ValueError(f"{place}: runs of {sum(runs)} pixels for a mask of {width}x{height}")
        shape.mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        shape.place = int(at["top"]), int(at["left"])
    else:
        image.skipped[element.tag] += 1
        return
    image.shapes.append(shape)


def read_label_studio(files: Sequence[Path], _: str | None = None) -> Annotations:
    """Read the JSON of Label Studio: polygons, rectangles, ellipses of the last annotation of each task."""
    images, labels = [], Counter[str]()
    for file in files:
        content = read_json(file)
        if not isinstance(content, list):
            raise ValueError(f"{file}: not a Label Studio file: it must be a list of tasks. Export as JSON")
        for number, task in enumerate(content, start=1):
            place = f"{file}, task {number}"
            try:
                done = [each for each in task["annotations"] if not each.get("was_cancelled")]
                image = LabeledImage(_label_studio_name(task["data"], place), None)
                for position, region in enumerate(done[-1]["result"] if done else ()):
                    _add_label_studio(image, region, f"{place}, region {position + 1}", position)
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{place}: not a Label Studio task ({type(error).__name__} {error})"
                ) from error
            labels.update(shape.label for shape in image.shapes)
            images.append(image)
    return Annotations(dict.fromkeys(sorted(labels), ""), images)


def _label_studio_name(data: Mapping[str, Any], place: str) -> str:
    """Return the path of an image below the served folder; uploads lose the random start of their names."""
    values = [data["image"]] if "image" in data else [v for v in data.values() if isinstance(v, str)]
    if not values:
        raise ValueError(f"{place}: data has no image")
    address = urlsplit(values[0])
    if served := parse_qs(address.query).get("d"):
        return served[0]
    name = unquote(address.path)
    if "/data/upload/" in name:
        return re.sub(r"^[0-9a-f]{8}-", "", name.rpartition("/")[2])
    return name.lstrip("/")


def _add_label_studio(image: LabeledImage, region: Mapping[str, Any], place: str, number: int) -> None:
    kind, value = region["type"], region.get("value", {})
    if kind not in ("polygonlabels", "rectanglelabels", "ellipselabels") or not value.get(kind):
        image.skipped[kind] += 1
        return
    width, height = region["original_width"], region["original_height"]
    size = int(height), int(width)
    if image.size not in (None, size):
        raise ValueError(f"{place}: of another image size than the regions before")
    image.size = size
    scale = np.array([width, height]) / 100  # values are percentages
    degrees = float(value.get("rotation") or 0)
    if kind == "polygonlabels":
        outline = parse_outline(value["points"], place) * scale
    else:
        x, y = (float(each) for each in scale * (value["x"], value["y"]))
        if kind == "ellipselabels":
            rx, ry = (float(each) for each in scale * (value["radiusX"], value["radiusY"]))
            outline = ellipse(x, y, rx, ry, degrees=degrees)
        else:
            w, h = (float(each) for each in scale * (value["width"], value["height"]))
            outline = rotate_points(box(x, y, x + w, y + h), degrees, about=(x, y))
    image.shapes.append(Shape(str(value[kind][0]), [outline], height=number))


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
    labels = Counter[str]()
    for file, name, regions in entries:
        image = images.setdefault(name, LabeledImage(name, None))
        for number, (shape, attributes) in enumerate(regions):
            label = attributes.get(key)
            if isinstance(label, Mapping):  # a checkbox
                label = "+".join(sorted(name for name, chosen in label.items() if chosen))
            outline = _via_outline(shape, f"{file}, {name}, region {number + 1}")
            if label in (None, "") or outline is None:
                image.skipped[str(shape.get("name")) if outline is None else f"without {key}"] += 1
                continue
            labels[str(label)] += 1
            image.shapes.append(Shape(str(label), [outline], height=number))
    return Annotations(dict.fromkeys(sorted(labels), ""), list(images.values()))


def _via_entries(file: Path) -> Iterator[tuple[str, list[Region]]]:
    try:
        if file.suffix.lower() == ".csv":
            for row in csv.DictReader(read_text(file).splitlines()):
                shape = json.loads(row.get("region_shape_attributes") or "{}")
                attributes = json.loads(row.get("region_attributes") or "{}")
                name = row["filename"] if "filename" in row else row["#filename"]
                yield name, [(shape, attributes)] if shape else []
            return
        content = read_json(file)
        for each in content.get("_via_img_metadata", content).values():
            regions = each.get("regions") or []
            regions = regions.values() if isinstance(regions, Mapping) else regions  # VIA 1 numbers them
            yield each["filename"], [(r["shape_attributes"], r["region_attributes"]) for r in regions]
    except (OSError, KeyError, TypeError, AttributeError, csv.Error, json.JSONDecodeError) as error:
        if isinstance(error, KeyError):
            text = f"there is no {error}"
        else:
            text = error
        raise ValueError(f"{file}: not a VIA file ({text})") from error


def _via_outline(shape: Mapping[str, Any], place: str) -> np.ndarray | None:
    """Return the outline of a region, None if it has no area."""
    try:
        kind = shape["name"]
        if kind in ("polygon", "polyline"):
            points = list(zip(shape["all_points_x"], shape["all_points_y"], strict=True))
            if kind == "polygon":
                return parse_outline(points, place)
            return None
        if kind == "rect":
            left, top = float(shape["x"]), float(shape["y"])
            return box(left, top, left + float(shape["width"]), top + float(shape["height"]))
        if kind in ("circle", "ellipse"):
            rx, ry = (float(shape.get("r", shape.get(key, 0))) for key in ("rx", "ry"))
            turn = np.degrees(float(shape.get("theta", 0)))  # radians
            return ellipse(float(shape["cx"]), float(shape["cy"]), rx, ry, degrees=turn)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{place}: invalid {shape.get('name')} ({error})") from error
    return None


READERS: dict[str, Callable[[Sequence[Path], str | None], Annotations]] = {
    "coco": read_coco,
    "labelme": read_labelme,
    "cvat": read_cvat,
    "label_studio": read_label_studio,
    "via": read_via,
}
