"""Files of label tools as images with objects: COCO, labelme, CVAT for images.

A format is one function from files to ``Annotated`` images; nothing is painted here.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np

from segkit.data.importing import polygons


@dataclass
class Thing:
    """One object: outlines (N, 2) whose union it is, or a mask (h, w) whose corner lies at ``place``."""

    label: str
    outlines: list[np.ndarray] = field(default_factory=list)
    mask: np.ndarray | None = None
    place: tuple[int, int] = (0, 0)  # top, left
    crowd: bool = False
    height: float = 0.0  # of several that overlap the highest is on top


@dataclass
class Annotated:
    """What a file says of one image."""

    name: str  # path below the folder of the images
    size: tuple[int, int] | None  # height, width
    things: list[Thing] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)  # shapes without an area, by kind


@dataclass
class Annotations:
    """What some files say: labels in their order, with colours where the tool has them, and the images."""

    labels: dict[str, str]  # to #rrggbb or ""
    images: list[Annotated]


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: not a JSON file ({error})") from error


def outline_of(values: Sequence[Any], place: str) -> np.ndarray:
    """(N, 2) x and y, from pairs or one after another.

    Raises:
        ValueError: they are none, or lie beyond every image; ``place`` says whose they are.
    """
    try:
        points = np.array(values, np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: an outline that is no list of x and y") from error
    if not np.isfinite(points).all() or np.abs(points).max(initial=0) > 1 << 20:
        raise ValueError(f"{place}: an outline with corners beyond every image")
    return points


def coco(files: Sequence[Path], _: str | None = None) -> Annotations:
    """COCO's instances: polygons and run lengths, crowds."""
    labels: dict[str, str] = {}
    images: dict[tuple[int, Any], Annotated] = {}
    for number, file in enumerate(files):
        content = read_json(file)
        if not isinstance(content, dict) or not {"images", "categories", "annotations"} <= content.keys():
            raise ValueError(f"{file}: not a COCO file: it needs images, categories and annotations")
        try:
            names = {each["id"]: each["name"] for each in content["categories"]}
            labels |= {names[key]: "" for key in sorted(names)}
            for each in content["images"]:
                size = int(each["height"]), int(each["width"])
                images[number, each["id"]] = Annotated(each["file_name"], size)
            for each in content["annotations"]:
                place = f"{file}, annotation {each['id']}"
                image = images.get((number, each["image_id"]))
                if image is None:
                    raise ValueError(f"{place}: there is no image {each['image_id']}")
                _add_coco(image, each, names[each["category_id"]], place)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{file}: not a COCO file: {type(error).__name__} {error}") from error
    return Annotations(labels, list(images.values()))


def _add_coco(image: Annotated, each: Mapping[str, Any], label: str, place: str) -> None:
    shape = each.get("segmentation")
    thing = Thing(label, crowd=bool(each.get("iscrowd")))
    assert image.size is not None
    if not shape:
        image.left_out["without outline"] += 1
        return
    if isinstance(shape, Mapping):
        height, width = shape["size"]
        if (height, width) != image.size:
            raise ValueError(f"{place}: a mask of {width}x{height} in an image of another size")
        try:
            thing.mask = polygons.from_runs(shape["counts"], height, width)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        area = int(thing.mask.sum())
    else:
        thing.outlines = [outline_of(part, place) for part in shape]
        area = sum(cv2.contourArea(part.astype(np.float32)) for part in thing.outlines)
    thing.height = -area  # small ones lie on large ones
    image.things.append(thing)


def labelme(files: Sequence[Path], _: str | None = None) -> Annotations:
    """labelme: one JSON beside each image."""
    found, labels = [], Counter[str]()
    for file in files:
        content = read_json(file)
        if not isinstance(content, dict) or "shapes" not in content:
            raise ValueError(f"{file}: not of labelme: it has no shapes")
        path = str(content.get("imagePath") or f"{file.stem}.jpg").replace("\\", "/")
        height, width = content.get("imageHeight"), content.get("imageWidth")
        size = (int(height), int(width)) if height and width else None
        image = Annotated(f"{file.stem}{Path(path).suffix}", size)
        for number, shape in enumerate(content["shapes"]):
            place = f"{file}, shape {number + 1}"
            kind, label = shape.get("shape_type") or "polygon", str(shape.get("label"))
            points = outline_of(shape.get("points", ()), place)
            thing = Thing(label, height=number)
            if kind == "mask":
                thing.mask, thing.place = _labelme_mask(shape, points, place)
            elif kind == "rectangle" and len(points) == 2:
                (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
                thing.outlines = [polygons.box(left, top, right, bottom)]
            elif kind == "circle" and len(points) == 2:
                radius = float(np.linalg.norm(points[1] - points[0]))
                thing.outlines = [polygons.ellipse(points[0, 0], points[0, 1], radius, radius)]
            elif kind in ("polygon", "rotation", "oriented_rectangle") and len(points) > 2:
                thing.outlines = [points]
            else:
                image.left_out[kind] += 1
                continue
            labels[label] += 1
            image.things.append(thing)
        found.append(image)
    return Annotations(dict.fromkeys(sorted(labels), ""), found)


def _labelme_mask(
    shape: Mapping[str, Any], points: np.ndarray, place: str
) -> tuple[np.ndarray, tuple[int, int]]:
    try:
        stored = np.frombuffer(base64.b64decode(shape["mask"]), np.uint8)
    except (KeyError, TypeError, binascii.Error) as error:
        raise ValueError(f"{place}: a mask that is no image in base64") from error
    mask = cv2.imdecode(stored, cv2.IMREAD_UNCHANGED) if stored.size else None
    if mask is None or mask.ndim != 2:
        raise ValueError(f"{place}: a mask that is no grey image")
    left, top = points.min(0).astype(int).tolist()
    return mask > 0, (top, left)


def cvat(files: Sequence[Path], _: str | None = None) -> Annotations:
    """CVAT for images 1.1: one XML."""
    labels: dict[str, str] = {}
    found: list[Annotated] = []
    for file in files:
        root = _cvat_root(file)
        for label in root.iter("label"):
            if name := label.findtext("name"):
                labels.setdefault(name, label.findtext("color") or "")
        for element in root.iter("image"):
            place = f"{file}, image {element.get('name')}"
            try:
                size = int(element.attrib["height"]), int(element.attrib["width"])
                image = Annotated(element.attrib["name"], size)
                for number, shape in enumerate(element):
                    _add_cvat(image, shape, number, f"shape {number + 1}")
            except (KeyError, ValueError) as error:
                said = error if isinstance(error, ValueError) else f"something has no {error}"
                raise ValueError(f"{place}: {said}") from error
            found.append(image)
    labels |= {thing.label: "" for image in found for thing in image.things if thing.label not in labels}
    return Annotations(labels, found)


def _cvat_root(file: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(file).getroot()  # expat refuses bombs
    except (OSError, ElementTree.ParseError) as error:
        raise ValueError(f"{file}: not an XML file ({error})") from error
    if root.tag != "annotations" or root.find("track") is not None:
        raise ValueError(f"{file}: not 'CVAT for images 1.1': export the task so")
    return root


def _add_cvat(image: Annotated, shape: ElementTree.Element, number: int, place: str) -> None:
    at = shape.attrib
    thing = Thing(at.get("label", ""), height=int(at.get("z_order", 0)) + number * 1e-6)
    turn = float(at.get("rotation", 0))
    if shape.tag == "polygon":
        thing.outlines = [outline_of([pair.split(",") for pair in at["points"].split(";")], place)]
    elif shape.tag == "box":
        thing.outlines = [
            polygons.box(*(float(at[key]) for key in ("xtl", "ytl", "xbr", "ybr")), degrees=turn)
        ]
    elif shape.tag == "ellipse":
        thing.outlines = [
            polygons.ellipse(*(float(at[key]) for key in ("cx", "cy", "rx", "ry")), degrees=turn)
        ]
    elif shape.tag == "mask":
        height, width = int(at["height"]), int(at["width"])
        runs = [int(count) for count in at["rle"].split(",")]
        if min(runs) < 0 or sum(runs) != height * width:
            raise ValueError(f"{place}: runs of {sum(runs)} pixels for a mask of {width}x{height}")
        thing.mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        thing.place = int(at["top"]), int(at["left"])
    else:
        image.left_out[shape.tag] += 1
        return
    image.things.append(thing)
