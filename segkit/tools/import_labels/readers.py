"""Read the files of label tools as labeled images."""

from __future__ import annotations

import base64
import contextlib
import io
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
from PIL import Image

from segkit.runtime.files import read_text
from segkit.tools.import_labels.shapes import (
    Annotations,
    LabeledImage,
    Shape,
    box,
    decode_runs,
    ellipse,
    rotate_points,
)


@contextlib.contextmanager
def name_errors(place: object, kind: str) -> Iterator[None]:
    """Raise errors about the content of a file as ``ValueError`` with the place in it."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ElementTree.ParseError, RecursionError) as error:
        raise ValueError(f"{place}: not a {kind} ({type(error).__name__} {error})") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{place}: {error}") from error


def read_annotations(kind: str, files: Sequence[Path], attribute: str | None = None) -> Annotations:
    """Return the images with their shapes in the files of a label tool.

    Args:
        kind: key of ``READERS``.
        files: of the label tool.
        attribute: attribute of VIA regions that holds the class.

    Raises:
        ValueError: a file is not of this kind; the message has the place in it.
    """
    folder = Path(os.path.commonpath([file.absolute().parent for file in files]))
    annotations = Annotations(folder, attribute)
    for file in files:
        with name_errors(file, f"{kind} file"):
            READERS[kind](file, annotations)
    found = {shape.label for image in annotations.images for shape in image.shapes}
    for label in sorted(found - annotations.labels.keys()):
        annotations.labels[label] = ""
    return annotations


def read_json(file: Path) -> Any:
    """Return the content of a JSON file."""
    text = read_text(file, most=1 << 32)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"not a JSON file ({error})") from error


def parse_outline(values: Sequence[Any]) -> np.ndarray:
    """Return (N, 2) x and y, from pairs or from one flat list."""
    return np.array(values, np.float64).reshape(-1, 2)


def read_coco(file: Path, annotations: Annotations) -> None:
    """Read COCO instances: polygons, run lengths and crowds; small shapes cover large ones."""
    content = read_json(file)
    names = {each["id"]: str(each["name"]) for each in content["categories"]}
    annotations.labels |= {names[key]: "" for key in sorted(names)}
    by_id = {}
    for each in content["images"]:
        by_id[each["id"]] = LabeledImage(each["file_name"], (int(each["height"]), int(each["width"])))
    annotations.images += by_id.values()
    for each in content["annotations"]:
        with name_errors(f"annotation {each['id']}", "COCO annotation"):
            _add_coco(by_id[each["image_id"]], each, names[each["category_id"]])


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
        shape.z_order = -int(shape.mask.sum())
    else:
        shape.outlines = [parse_outline(part) for part in segmentation]
        shape.z_order = -sum(cv2.contourArea(part.astype(np.float32)) for part in shape.outlines)
    image.shapes.append(shape)


def read_labelme(file: Path, annotations: Annotations) -> None:
    """Read labelme: one JSON per image, whose ``imagePath`` is relative to the JSON."""
    content = read_json(file)
    path = Path(str(content.get("imagePath") or f"{file.stem}.jpg").replace("\\", "/"))
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (int(height), int(width)) if height and width else None
    below = file.absolute().parent.relative_to(annotations.folder)
    image = LabeledImage((below / path.name).as_posix(), size)
    if (file.parent / path).is_file():
        image.file = (file.parent / path).resolve()
    annotations.images.append(image)
    for number, each in enumerate(content["shapes"], start=1):
        with name_errors(f"shape {number}", "labelme shape"):
            _add_labelme(image, each)


def _add_labelme(image: LabeledImage, each: Mapping[str, Any]) -> None:
    kind = each.get("shape_type") or "polygon"
    points = parse_outline(each.get("points", ()))
    shape = Shape(str(each.get("label")))
    if kind == "mask":
        left, top = points.min(0).astype(int).tolist()
        stored = Image.open(io.BytesIO(base64.b64decode(each["mask"])))
        shape.mask, shape.place = np.asarray(stored.convert("L")) > 0, (top, left)
    elif kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points.min(0), points.max(0)
        shape.outlines = [box(left, top, right, bottom)]
    elif kind == "circle" and len(points) == 2:
        (x, y), radius = points[0], float(np.linalg.norm(points[1] - points[0]))
        shape.outlines = [ellipse(x, y, radius, radius)]
    elif kind in ("polygon", "rotation", "oriented_rectangle") and len(points) > 2:
        shape.outlines = [points]
    else:
        image.skipped[kind] += 1
        return
    image.shapes.append(shape)


def read_cvat(file: Path, annotations: Annotations) -> None:
    """Read CVAT for images 1.1 (XML); shapes with a higher ``z_order`` are on top."""
    root = ElementTree.parse(file).getroot()  # expat refuses bombs
    if root.tag != "annotations" or root.find("track") is not None:
        raise ValueError("not 'CVAT for images 1.1'. Export the task in this format")
    for label in root.iter("label"):
        if name := label.findtext("name"):
            annotations.labels.setdefault(name, label.findtext("color") or "")
    for element in root.iter("image"):
        size = int(element.attrib["height"]), int(element.attrib["width"])
        image = LabeledImage(element.attrib["name"], size)
        annotations.images.append(image)
        for number, shape in enumerate(element, start=1):
            with name_errors(f"{image.name}, shape {number}", f"CVAT {shape.tag}"):
                _add_cvat(image, shape)


def _add_cvat(image: LabeledImage, element: ElementTree.Element) -> None:
    at = element.attrib
    shape = Shape(at.get("label", ""), z_order=int(at.get("z_order", 0)))
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
        if sum(runs) != height * width:  # before they are expanded, which may take all memory
            raise ValueError(f"runs of {sum(runs)} pixels for a mask of {width}x{height}")
        shape.mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        shape.place = int(at["top"]), int(at["left"])
    else:
        image.skipped[element.tag] += 1
        return
    image.shapes.append(shape)


def read_label_studio(file: Path, annotations: Annotations) -> None:
    """Read the JSON of Label Studio: polygons, rectangles, ellipses of the last annotation of each task."""
    for number, task in enumerate(read_json(file), start=1):
        with name_errors(f"task {number}", "Label Studio task"):
            image = LabeledImage(_label_studio_name(task["data"]), None)
            annotations.images.append(image)
            done = [each for each in task["annotations"] if not each.get("was_cancelled")]
            for region in done[-1]["result"] if done else ():
                _add_label_studio(image, region)


def _label_studio_name(data: Mapping[str, Any]) -> str:
    """Return the path of an image below the served folder; uploads lose the random start of their names."""
    values = [data["image"]] if "image" in data else [v for v in data.values() if isinstance(v, str)]
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
        raise ValueError("regions of images of different sizes")
    image.size = size
    scale = np.array(size[::-1]) / 100  # values are percentages
    degrees = float(value.get("rotation") or 0)
    if kind == "polygonlabels":
        outline = parse_outline(value["points"]) * scale
    else:
        x, y = scale * (value["x"], value["y"])
        if kind == "ellipselabels":
            outline = ellipse(x, y, *(scale * (value["radiusX"], value["radiusY"])), degrees=degrees)
        else:
            width, height = scale * (value["width"], value["height"])
            outline = rotate_points(box(x, y, x + width, y + height), degrees, about=(x, y))
    image.shapes.append(Shape(str(value[kind][0]), [outline]))


def read_via(file: Path, annotations: Annotations) -> None:
    """Read the JSON of VGG Image Annotator 1 and 2; an attribute of the regions is the class."""
    content = read_json(file)
    entries = list(content.get("_via_img_metadata", content).values())
    for entry in entries:
        regions = entry.get("regions") or []
        entry["regions"] = list(regions.values()) if isinstance(regions, Mapping) else regions  # VIA 1
    keys = Counter(
        key for entry in entries for region in entry["regions"] for key in region["region_attributes"]
    )
    if annotations.attribute is None and len(keys) > 1:
        raise ValueError(f"several region attributes. Select the class with --attribute {' or '.join(keys)}")
    key = annotations.attribute or next(iter(keys), "class")
    if keys and key not in keys:
        raise ValueError(f"--attribute {key}: unknown. The regions have {', '.join(keys)}")
    if keys:
        annotations.attribute = key  # of all files
    for entry in entries:
        image = LabeledImage(entry["filename"], None)
        annotations.images.append(image)
        for number, region in enumerate(entry["regions"], start=1):
            with name_errors(f"{image.name}, region {number}", "VIA region"):
                _add_via(image, region["shape_attributes"], region["region_attributes"].get(key), key)


def _add_via(image: LabeledImage, shape: Mapping[str, Any], label: Any, key: str) -> None:
    kind = shape["name"]
    if isinstance(label, Mapping):  # a checkbox
        label = "+".join(sorted(name for name, chosen in label.items() if chosen))
    if kind == "polygon":
        outline = parse_outline(list(zip(shape["all_points_x"], shape["all_points_y"], strict=True)))
    elif kind == "rect":
        left, top, width, height = (float(shape[side]) for side in ("x", "y", "width", "height"))
        outline = box(left, top, left + width, top + height)
    elif kind in ("circle", "ellipse"):
        rx, ry = (float(shape.get("r", shape.get(radius, 0))) for radius in ("rx", "ry"))
        degrees = float(np.degrees(float(shape.get("theta", 0))))  # theta is in radians
        outline = ellipse(float(shape["cx"]), float(shape["cy"]), rx, ry, degrees=degrees)
    else:  # without an area
        image.skipped[kind] += 1
        return
    if label in (None, ""):
        image.skipped[f"without {key}"] += 1
        return
    image.shapes.append(Shape(str(label), [outline]))


READERS: dict[str, Callable[[Path, Annotations], None]] = {
    "coco": read_coco,
    "labelme": read_labelme,
    "cvat": read_cvat,
    "label_studio": read_label_studio,
    "via": read_via,
}
