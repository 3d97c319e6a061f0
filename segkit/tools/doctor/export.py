"""Write images with the polygons of their masks and of predictions for label tools.

All three formats come back with ``python datasets/folder.py import --table classes.csv``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from segkit.data.label_map import LabelMap, hex_color
from segkit.runtime import files
from segkit.tools.doctor.outlines import Outline, trace_label
from segkit.tools.import_labels import format_csv

MIN_AREA = 16  # pixels of a region of a prediction
SERVED = "/data/local-files/?d="  # Label Studio's address of a file below its document root


@dataclass
class ExportedImage:
    """An image with the outlines of its mask and of the prediction; empty without a model."""

    file: Path
    size: tuple[int, int]  # height, width
    labels: list[Outline]
    predictions: list[Outline]
    note: str


def trace_image(
    file: Path, label: np.ndarray, prediction: np.ndarray | None = None, *, note: str = ""
) -> ExportedImage:
    """Return an image with the outlines of its label (H, W) and of a prediction (H, W)."""
    predicted = [] if prediction is None else trace_label(prediction, min_area=MIN_AREA)
    return ExportedImage(file, label.shape, trace_label(label), predicted, note)


def export_images(
    images: Sequence[ExportedImage], *, table: LabelMap, base: Path, folder: Path, tools: Iterable[str]
) -> None:
    """Write images for label tools below a folder, with ``classes.csv``.

    Args:
        images: to be looked at.
        table: classes of the outlines.
        base: folder of the images; they are named by their paths below it.
        folder: of the files.
        tools: keys of ``TOOLS``.

    Raises:
        OSError: a file cannot be written.
    """
    names = _class_names(table)
    _write(folder / "classes.csv", format_csv(table))
    for tool in tools:
        TOOLS[tool](images, names, table, folder / tool, base.absolute())


def common_folder(files: Iterable[Path]) -> Path:
    """Return the deepest folder that contains all files."""
    return Path(os.path.commonpath([file.absolute().parent for file in files]))


def _class_names(table: LabelMap) -> Callable[[int], str]:
    """Return a function from class ids to names; ignored pixels have the name of the ignored entry."""
    ignored = [entry.name for entry in table.entries if entry.ignore] or ["not scored"]

    def name_of(class_id: int) -> str:
        if class_id < table.num_classes:
            return table.names[class_id]
        return ignored[0]

    return name_of


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(file) as opened:
        opened.write(text.encode())


def _write_json(file: Path, content: Any) -> None:
    _write(file, json.dumps(content, ensure_ascii=False))


def _colors(table: LabelMap) -> dict[str, str]:
    colors = {name: hex_color(color) for name, color in zip(table.names, table.colors, strict=True)}
    return colors | {entry.name: hex_color(entry.color) for entry in table.entries if entry.ignore}


def write_cvat(
    images: Sequence[ExportedImage], names: Callable[[int], str], table: LabelMap, folder: Path, base: Path
) -> None:
    """Write ``labels.xml`` and ``predictions.xml``, as CVAT for images 1.1."""
    for kind in ("labels", "predictions"):
        root = ElementTree.Element("annotations")
        ElementTree.SubElement(root, "version").text = "1.1"
        listed = ElementTree.SubElement(
            ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels"
        )
        for name, color in _colors(table).items():
            label = ElementTree.SubElement(listed, "label")
            ElementTree.SubElement(label, "name").text = name
            ElementTree.SubElement(label, "color").text = color
        for number, image in enumerate(images):
            attributes = {"id": number, "name": image.file.absolute().relative_to(base).as_posix()}
            attributes |= {"width": image.size[1], "height": image.size[0]}
            element = ElementTree.SubElement(root, "image", {k: str(v) for k, v in attributes.items()})
            for order, outline in enumerate(getattr(image, kind)):
                points = ";".join(f"{x},{y}" for x, y in outline.points.tolist())
                described = {"label": names(outline.class_id), "source": "manual", "occluded": "0"}
                ElementTree.SubElement(
                    element, "polygon", {**described, "points": points, "z_order": str(order)}
                )
        if any(getattr(image, kind) for image in images):
            _write(folder / f"{kind}.xml", ElementTree.tostring(root, encoding="unicode"))


def write_labelme(
    images: Sequence[ExportedImage], names: Callable[[int], str], table: LabelMap, folder: Path, base: Path
) -> None:
    """Write one JSON file for each image to ``labels/`` and ``predictions/``."""
    for kind in ("labels", "predictions"):
        for image in images:
            outlines = getattr(image, kind)
            if not outlines:
                continue
            file = folder / kind / image.file.absolute().relative_to(base).with_suffix(".json")
            shapes = [
                {
                    "label": names(outline.class_id),
                    "points": outline.points.tolist(),
                    "group_id": None,
                    "shape_type": "polygon",
                    "flags": {},
                }
                for outline in outlines
            ]
            path = os.path.relpath(image.file.absolute(), file.parent.absolute())
            content = {
                "version": "5.0.0",
                "flags": {},
                "shapes": shapes,
                "imagePath": path,
                "imageData": None,
            }
            _write_json(file, content | {"imageHeight": image.size[0], "imageWidth": image.size[1]})


def write_label_studio(
    images: Sequence[ExportedImage], names: Callable[[int], str], table: LabelMap, folder: Path, base: Path
) -> None:
    """Write ``tasks.json``, with masks as annotations, and ``config.xml`` for the labeling interface."""

    def regions(image: ExportedImage, outlines: Sequence[Outline]) -> list[dict[str, Any]]:
        height, width = image.size
        size = {"original_width": width, "original_height": height, "image_rotation": 0}
        scaled = [(outline, outline.points * 100 / (width, height)) for outline in outlines]
        return [
            {
                "id": f"r{number}",
                "type": "polygonlabels",
                "from_name": "label",
                "to_name": "image",
                **size,
                "value": {
                    "points": points.tolist(),
                    "closed": True,
                    "polygonlabels": [names(outline.class_id)],
                },
            }
            for number, (outline, points) in enumerate(scaled)
        ]

    tasks = []
    for image in images:
        address = SERVED + quote(image.file.absolute().relative_to(base).as_posix())
        task: dict[str, Any] = {"data": {"image": address, "note": image.note}}
        task["annotations"] = [{"result": regions(image, image.labels)}]
        if image.predictions:
            task["predictions"] = [{"model_version": "segkit", "result": regions(image, image.predictions)}]
        tasks.append(task)
    _write_json(folder / "tasks.json", tasks)
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Text", {"name": "note", "value": "$note"})
    ElementTree.SubElement(view, "Image", {"name": "image", "value": "$image"})
    listed = ElementTree.SubElement(view, "PolygonLabels", {"name": "label", "toName": "image"})
    for name, color in _colors(table).items():
        ElementTree.SubElement(listed, "Label", {"value": name, "background": color})
    _write(folder / "config.xml", ElementTree.tostring(view, encoding="unicode"))


TOOLS = {"cvat": write_cvat, "label_studio": write_label_studio, "labelme": write_labelme}
