"""Write images with the polygons of their masks and of predictions for label tools.

All three formats come back with ``python datasets/folder.py import --table classes.csv``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree

import cv2
import numpy as np

from segkit.data.label_map import LabelMap, hex_color
from segkit.runtime import files

MIN_AREA = 16  # pixels of a region of a prediction
SERVED = "/data/local-files/?d="  # Label Studio's address of a file below its document root


Polygons = list[tuple[str, np.ndarray]]  # class and (N, 2) x and y of pixel corners, in the order to paint


class ExportedImage(NamedTuple):
    """An image with its label and the prediction of a model, (H, W) class ids."""

    file: Path
    label: np.ndarray
    prediction: np.ndarray | None
    note: str


class TracedImage(NamedTuple):
    """An image with the polygons of its mask and of the prediction; none without a model."""

    file: Path
    path: Path  # of the file, below the folder of all images
    size: tuple[int, int]  # height, width
    polygons: dict[str, Polygons]  # of ``labels`` and ``predictions``
    note: str


def trace_label(label: np.ndarray, names: Sequence[str], *, min_area: int = 1) -> Polygons:
    """Return the polygons of all connected regions of a label (H, W) that give it when painted in order.

    Holes are not cut out: the regions in them are smaller, and so come later. A polygon follows the corners
    of pixels, so that pycocotools paints exactly the region.

    Args:
        label: of class ids; each value is traced.
        names: of the classes; the last is that of all higher ids.
        min_area: pixels; smaller regions are left out.
    """
    found = []
    for class_id in np.unique(label).tolist():
        name = names[min(class_id, len(names) - 1)]
        mask = (label == class_id).astype(np.uint8)
        number, components, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
        for component in range(1, number):
            x, y, width, height, area = (int(value) for value in boxes[component])
            if area >= min_area:
                inside = components[y : y + height, x : x + width] == component
                points = trace_region(inside.astype(np.uint8))
                filled = cv2.contourArea(points.astype(np.int32).reshape(-1, 1, 2))
                found.append((filled, name, points + np.array([x, y])))
    return [(name, points) for _, name, points in sorted(found, key=lambda entry: -entry[0])]


def trace_region(mask: np.ndarray) -> np.ndarray:
    """Return the outer outline (N, 2) of a connected region (H, W) along the corners of its pixels.

    OpenCV traces the centers of pixels. At twice the size, centers 2x and 2x + 1 of the two halves of a pixel
    are next to its corners x and x + 1.
    """
    double = np.repeat(np.repeat(mask, 2, axis=0), 2, axis=1)
    contours = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    assert len(contours) == 1
    points = (contours[0][:, 0].astype(np.int64) + 1) // 2
    points = points[(points != np.roll(points, 1, axis=0)).any(1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    reverses = (before * after).sum(1) < 0
    return points[turns | reverses]


def export_images(
    images: Iterable[ExportedImage], *, table: LabelMap, base: Path, folder: Path, tools: Iterable[str]
) -> int:
    """Write images for label tools, keys of ``TOOLS``, below a folder, with ``classes.csv``.

    The images are named by their paths below ``base``. Returns their number.
    """
    files.write_text(folder / "classes.csv", table.to_csv())
    ignored = {entry.name: hex_color(entry.color) for entry in table.entries if entry.ignore}
    names = [*table.names, next(iter(ignored), "not scored")]
    colors = {name: hex_color(color) for name, color in zip(table.names, table.colors, strict=True)} | ignored
    traced = []
    for file, label, prediction, note in images:
        polygons = {"labels": trace_label(label, names), "predictions": []}
        if prediction is not None:
            polygons["predictions"] = trace_label(prediction, names, min_area=MIN_AREA)
        path = file.absolute().relative_to(base.absolute())
        traced.append(TracedImage(file, path, label.shape, polygons, note))
    for tool in tools:
        TOOLS[tool](traced, colors, folder / tool)
    return len(traced)


def common_folder(files: Iterable[Path]) -> Path:
    """Return the deepest folder that contains all files."""
    return Path(os.path.commonpath([file.absolute().parent for file in files]))


def write_cvat(images: Sequence[TracedImage], colors: dict[str, str], folder: Path) -> None:
    """Write ``labels.xml`` and ``predictions.xml``, as CVAT for images 1.1."""
    for kind in ("labels", "predictions"):
        if not any(image.polygons[kind] for image in images):
            continue
        root = ElementTree.Element("annotations")
        ElementTree.SubElement(root, "version").text = "1.1"
        task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
        listed = ElementTree.SubElement(task, "labels")
        for name, color in colors.items():
            label = ElementTree.SubElement(listed, "label")
            ElementTree.SubElement(label, "name").text = name
            ElementTree.SubElement(label, "color").text = color
        for number, image in enumerate(images):
            height, width = map(str, image.size)
            attributes = {"id": str(number), "name": image.path.as_posix(), "width": width, "height": height}
            element = ElementTree.SubElement(root, "image", attributes)
            for order, (name, outline) in enumerate(image.polygons[kind]):
                points = ";".join(f"{x},{y}" for x, y in outline.tolist())
                attributes = {"label": name, "source": "manual", "occluded": "0"}
                attributes |= {"points": points, "z_order": str(order)}
                ElementTree.SubElement(element, "polygon", attributes)
        files.write_text(folder / f"{kind}.xml", ElementTree.tostring(root, encoding="unicode"))


def write_labelme(images: Sequence[TracedImage], _: dict[str, str], folder: Path) -> None:
    """Write one JSON file for each image to ``labels/`` and ``predictions/``."""
    for image in images:
        for kind, polygons in image.polygons.items():
            if not polygons:
                continue
            shape = {"group_id": None, "shape_type": "polygon", "flags": {}}
            file = folder / kind / image.path.with_suffix(".json")
            content = {
                "version": "5.0.0",
                "flags": {},
                "shapes": [{"label": name, "points": points.tolist(), **shape} for name, points in polygons],
                "imagePath": os.path.relpath(image.file.absolute(), file.parent.absolute()),
                "imageData": None,
                "imageHeight": image.size[0],
                "imageWidth": image.size[1],
            }
            files.write_text(file, json.dumps(content, ensure_ascii=False))


def write_label_studio(images: Sequence[TracedImage], colors: dict[str, str], folder: Path) -> None:
    """Write ``tasks.json``, with masks as annotations, and ``config.xml`` for the labeling interface."""
    tasks = []
    for image in images:
        regions = {kind: _label_studio_regions(image, kind) for kind in image.polygons}
        address = SERVED + quote(image.path.as_posix())
        task: dict[str, Any] = {"data": {"image": address, "note": image.note}}
        task["annotations"] = [{"result": regions["labels"]}]
        if regions["predictions"]:
            task["predictions"] = [{"model_version": "segkit", "result": regions["predictions"]}]
        tasks.append(task)
    files.write_text(folder / "tasks.json", json.dumps(tasks, ensure_ascii=False))
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Text", {"name": "note", "value": "$note"})
    ElementTree.SubElement(view, "Image", {"name": "image", "value": "$image"})
    listed = ElementTree.SubElement(view, "PolygonLabels", {"name": "label", "toName": "image"})
    for name, color in colors.items():
        ElementTree.SubElement(listed, "Label", {"value": name, "background": color})
    files.write_text(folder / "config.xml", ElementTree.tostring(view, encoding="unicode"))


def _label_studio_regions(image: TracedImage, kind: str) -> list[dict[str, Any]]:
    height, width = image.size
    regions = []
    for number, (name, outline) in enumerate(image.polygons[kind]):
        points = (outline * 100 / (width, height)).tolist()  # percentages
        region = {"id": f"r{number}", "type": "polygonlabels", "from_name": "label", "to_name": "image"}
        region |= {"original_width": width, "original_height": height, "image_rotation": 0}
        value = {"points": points, "closed": True, "polygonlabels": [name]}
        regions.append({**region, "value": value})
    return regions


TOOLS = {"cvat": write_cvat, "label_studio": write_label_studio, "labelme": write_labelme}
