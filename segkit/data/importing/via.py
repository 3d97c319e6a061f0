"""VGG Image Annotator, versions 1 and 2."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkit.data.importing import polygons
from segkit.data.importing.annotations import Annotated, Annotations, Thing, outline_of, read_json


def read_via(files: Sequence[Path], attribute: str | None = None) -> Annotations:
    """VGG Image Annotator 1 and 2: JSON or CSV; one attribute of the regions is the class."""
    entries = [
        entry for file in files for entry in (_from_csv(file) if file.suffix == ".csv" else _from_json(file))
    ]
    keys = Counter(key for _, regions, _ in entries for _, attributes in regions for key in attributes)
    if attribute is None and len(keys) > 1:
        raise ValueError(
            f"{files[0]}: which attribute of the regions is the class? Say --attribute {' or '.join(keys)}"
        )
    key = attribute or next(iter(keys), "class")
    if keys and key not in keys:
        raise ValueError(f"--attribute {key}: the regions have {', '.join(keys)}")
    images: dict[str, Annotated] = {}
    labels = Counter[str]()
    for name, regions, file in entries:
        image = images.setdefault(name, Annotated(name, None))
        for number, (shape, attributes) in enumerate(regions):
            label = attributes.get(key)
            if isinstance(label, Mapping):  # a checkbox
                label = "+".join(sorted(name for name, chosen in label.items() if chosen))
            if label in (None, ""):
                image.left_out[f"without {key}"] += 1
                continue
            outline = _outline_of_region(shape, f"{file}, {name}, region {number + 1}")
            if outline is None:
                image.left_out[str(shape.get("name"))] += 1
                continue
            labels[str(label)] += 1
            image.things.append(Thing(str(label), [outline], height=number))
    return Annotations(dict.fromkeys(sorted(labels), ""), list(images.values()))


Region = tuple[Mapping[str, Any], Mapping[str, Any]]


def _from_json(file: Path) -> Iterable[tuple[str, list[Region], Path]]:
    content = read_json(file)
    entries = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not all(
        isinstance(each, dict) and "filename" in each for each in entries.values()
    ):
        raise ValueError(f"{file}: not of VIA: its entries have no filename")
    for each in entries.values():
        regions = each.get("regions") or []
        regions = regions.values() if isinstance(regions, Mapping) else regions  # VIA 1 numbers them
        yield each["filename"], [(r["shape_attributes"], r["region_attributes"]) for r in regions], file


def _from_csv(file: Path) -> Iterable[tuple[str, list[Region], Path]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            for row in csv.DictReader(lines):
                name = row.get("filename") or row.get("#filename")
                if name is None:
                    raise ValueError("there is no column filename")
                shape = json.loads(row.get("region_shape_attributes") or "{}")
                attributes = json.loads(row.get("region_attributes") or "{}")
                yield name, [(shape, attributes)] if shape else [], file
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: not of VIA ({error})") from error


def _outline_of_region(shape: Mapping[str, Any], place: str) -> np.ndarray | None:
    """The outline of a region; None for what has no area."""
    try:
        kind = shape["name"]
        if kind == "polygon":
            return outline_of(list(zip(shape["all_points_x"], shape["all_points_y"], strict=True)), place)
        if kind == "rect":
            left, top = float(shape["x"]), float(shape["y"])
            return polygons.box(left, top, left + float(shape["width"]), top + float(shape["height"]))
        if kind in ("circle", "ellipse"):
            rx, ry = (
                (float(shape["r"]),) * 2 if kind == "circle" else (float(shape["rx"]), float(shape["ry"]))
            )
            turn = np.degrees(float(shape.get("theta", 0)))  # radians
            return polygons.ellipse(float(shape["cx"]), float(shape["cy"]), rx, ry, degrees=turn)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{place}: a {shape.get('name')} without its numbers ({error})") from error
    return None
