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

import numpy as np

from segkit.data.label_map import LabelMap, hex_color
from segkit.runtime import files
from segkit.tools.doctor.outlines import Outline, trace_label
from segkit.tools.import_labels import format_csv

MIN_AREA = 16  # pixels of a region of a prediction
SERVED = "/data/local-files/?d="  # Label Studio's address of a file below its document root


class ExportedImage(NamedTuple):
    """An image with the outlines of its mask and of the prediction; empty without a model."""

    file: Path
    size: tuple[int, int]  # height, width
    labels: list[Outline]
    predictions: list[Outline]
    note: str


KINDS = ("labels", "predictions")  # outlines of an ``ExportedImage``


class Export(NamedTuple):
    """Images to write for a label tool."""

    images: Sequence[ExportedImage]
    names: Sequence[str]  # of the classes; the last is that of ignored pixels
    colors: dict[str, str]  # by name, #rrggbb
    base: Path  # of the images, absolute
    folder: Path  # of the files

    def path_of(self, image: ExportedImage) -> Path:
        """Return the path of an image below the base."""
        return image.file.absolute().relative_to(self.base)

    def name_of(self, outline: Outline) -> str:
        """Return the name of a class."""
        return self.names[min(outline.class_id, len(self.names) - 1)]


def trace_image(
    file: Path, label: np.ndarray, prediction: np.ndarray | None = None, *, note: str = ""
) -> ExportedImage:
    """Return an image with the outlines of its label (H, W) and of a prediction (H, W)."""
    predicted = [] if prediction is None else trace_label(prediction, min_area=MIN_AREA)
    return ExportedImage(file, label.shape, trace_label(label), predicted, note)


def export_images(
    images: Sequence[ExportedImage], *, table: LabelMap, base: Path, folder: Path, tools: Iterable[str]
) -> None:
    """Write images for label tools, keys of ``TOOLS``, below a folder, with ``classes.csv``.

    The images are named by their paths below ``base``.
    """
    files.write_text(folder / "classes.csv", format_csv(table))
    ignored = {entry.name: hex_color(entry.color) for entry in table.entries if entry.ignore}
    names = [*table.names, next(iter(ignored), "not scored")]
    colors = {name: hex_color(color) for name, color in zip(table.names, table.colors, strict=True)} | ignored
    for tool in tools:
        TOOLS[tool](Export(images, names, colors, base.absolute(), folder / tool))


def common_folder(files: Iterable[Path]) -> Path:
    """Return the deepest folder that contains all files."""
    return Path(os.path.commonpath([file.absolute().parent for file in files]))


def write_cvat(export: Export) -> None:
    """Write ``labels.xml`` and ``predictions.xml``, as CVAT for images 1.1."""
    for kind in KINDS:
        if not any(getattr(image, kind) for image in export.images):
            continue
        root = ElementTree.Element("annotations")
        ElementTree.SubElement(root, "version").text = "1.1"
        task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
        listed = ElementTree.SubElement(task, "labels")
        for name, color in export.colors.items():
            label = ElementTree.SubElement(listed, "label")
            ElementTree.SubElement(label, "name").text = name
            ElementTree.SubElement(label, "color").text = color
        for number, image in enumerate(export.images):
            height, width = map(str, image.size)
            path = export.path_of(image).as_posix()
            attributes = {"id": str(number), "name": path, "width": width, "height": height}
            element = ElementTree.SubElement(root, "image", attributes)
            for order, outline in enumerate(getattr(image, kind)):
                points = ";".join(f"{x},{y}" for x, y in outline.points.tolist())
                attributes = {"label": export.name_of(outline), "source": "manual", "occluded": "0"}
                attributes |= {"points": points, "z_order": str(order)}
                ElementTree.SubElement(element, "polygon", attributes)
        files.write_text(export.folder / f"{kind}.xml", ElementTree.tostring(root, encoding="unicode"))


def write_labelme(export: Export) -> None:
    """Write one JSON file for each image to ``labels/`` and ``predictions/``."""
    for kind in KINDS:
        for image in export.images:
            shapes = [
                {
                    "label": export.name_of(outline),
                    "points": outline.points.tolist(),
                    "group_id": None,
                    "shape_type": "polygon",
                    "flags": {},
                }
                for outline in getattr(image, kind)
            ]
            if not shapes:
                continue
            file = export.folder / kind / export.path_of(image).with_suffix(".json")
            content = {
                "version": "5.0.0",
                "flags": {},
                "shapes": shapes,
                "imagePath": os.path.relpath(image.file.absolute(), file.parent.absolute()),
                "imageData": None,
                "imageHeight": image.size[0],
                "imageWidth": image.size[1],
            }
            files.write_text(file, json.dumps(content, ensure_ascii=False))


def write_label_studio(export: Export) -> None:
    """Write ``tasks.json``, with masks as annotations, and ``config.xml`` for the labeling interface."""
    tasks = []
    for image in export.images:
        address = SERVED + quote(export.path_of(image).as_posix())
        task: dict[str, Any] = {"data": {"image": address, "note": image.note}}
        task["annotations"] = [{"result": _label_studio_regions(export, image, image.labels)}]
        if image.predictions:
            regions = _label_studio_regions(export, image, image.predictions)
            task["predictions"] = [{"model_version": "segkit", "result": regions}]
        tasks.append(task)
    files.write_text(export.folder / "tasks.json", json.dumps(tasks, ensure_ascii=False))
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Text", {"name": "note", "value": "$note"})
    ElementTree.SubElement(view, "Image", {"name": "image", "value": "$image"})
    listed = ElementTree.SubElement(view, "PolygonLabels", {"name": "label", "toName": "image"})
    for name, color in export.colors.items():
        ElementTree.SubElement(listed, "Label", {"value": name, "background": color})
    files.write_text(export.folder / "config.xml", ElementTree.tostring(view, encoding="unicode"))


def _label_studio_regions(
    export: Export, image: ExportedImage, outlines: Sequence[Outline]
) -> list[dict[str, Any]]:
    height, width = image.size
    regions = []
    for number, outline in enumerate(outlines):
        points = (outline.points * 100 / (width, height)).tolist()  # percentages
        region = {"id": f"r{number}", "type": "polygonlabels", "from_name": "label", "to_name": "image"}
        region |= {"original_width": width, "original_height": height, "image_rotation": 0}
        value = {"points": points, "closed": True, "polygonlabels": [export.name_of(outline)]}
        regions.append({**region, "value": value})
    return regions


TOOLS = {"cvat": write_cvat, "label_studio": write_label_studio, "labelme": write_labelme}
