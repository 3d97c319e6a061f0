"""COCO data sets for the detection example: reading, drawn scenes, and scores by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

NAMES = ("square", "disc")  # of the drawn objects
FIGURES = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large")  # the first six of COCO's twelve


def import_pycocotools() -> Any:
    """Return the package pycocotools.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import pycocotools.coco
        import pycocotools.cocoeval
        import pycocotools.mask
    except ImportError as error:
        raise ValueError("pycocotools is not installed. Run pip install 'segkit[detection]'") from error
    return pycocotools


class Coco(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images (3, H, W) in 0..1 with boxes (N, 4) as corners, labels from 1, and masks (N, H, W).

    Crowds are left out of training.

    Args:
        file: annotations, such as ``instances_val2017.json``.
        images: folder of its images.

    Raises:
        ValueError: a file is missing or is not COCO's.
    """

    def __init__(self, file: Path, images: Path) -> None:
        tools = import_pycocotools()
        if not file.is_file():
            raise ValueError(f"{file}: no such file. Give the annotations of COCO, a .json of instances")
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
                self.truth = tools.coco.COCO(str(file))
        except (AssertionError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{file}: not a COCO annotation file ({error!r:.80})") from error
        self.images, self.file = images, file
        self.ids = sorted(self.truth.imgs)
        self.categories = sorted(self.truth.cats)  # COCO's own ids have gaps
        if not self.ids or not self.categories:
            raise ValueError(f"{file}: {len(self.ids)} images and {len(self.categories)} categories")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        entry = self.truth.imgs[self.ids[index]]
        path = self.images / entry["file_name"]
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{path}: cannot be read ({error}); it is listed in {self.file}") from error
        boxes, labels, masks = [], [], []
        for annotation in self.truth.imgToAnns.get(entry["id"], []):
            x, y, width, height = annotation["bbox"]
            if annotation.get("iscrowd") or width <= 0 or height <= 0:
                continue
            boxes.append([x, y, x + width, y + height])
            labels.append(self.categories.index(annotation["category_id"]) + 1)
            masks.append(self.truth.annToMask(annotation))
        all_masks = np.stack(masks) if masks else np.zeros((0, *pixels.shape[:2]), np.uint8)
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float() / 255, {
            "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "masks": torch.from_numpy(all_masks),
        }

    def scores(self, detections: list[dict[str, Tensor]]) -> dict[str, dict[str, float]]:
        """Return COCO's scores in percent for boxes and, if any, masks; -1 if there are no objects.

        Args:
            detections: of each image in order, as returned by torchvision's detectors.
        """
        kinds = ["bbox"]
        if detections and "masks" in detections[0]:
            kinds.append("segm")
        return {kind: self._evaluate(self._to_coco(detections, kind), kind) for kind in kinds}

    def _to_coco(self, detections: list[dict[str, Tensor]], kind: str) -> list[dict[str, Any]]:
        """Convert detections to COCO's result format."""
        tools, results = import_pycocotools(), []
        for image_id, each in zip(self.ids, detections, strict=True):
            for n in range(len(each["scores"])):
                entry = {"image_id": image_id, "score": float(each["scores"][n])}
                entry["category_id"] = self.categories[int(each["labels"][n]) - 1]
                left, top, right, bottom = each["boxes"][n].tolist()
                entry["bbox"] = [left, top, right - left, bottom - top]
                if kind == "segm":
                    mask = (each["masks"][n, 0] > 0.5).cpu().numpy().astype(np.uint8)
                    entry["segmentation"] = tools.mask.encode(np.asfortranarray(mask))
                results.append(entry)
        return results

    def _evaluate(self, results: list[dict[str, Any]], kind: str) -> dict[str, float]:
        if not results:
            return dict.fromkeys(FIGURES, 0.0)
        tools = import_pycocotools()
        with contextlib.redirect_stdout(io.StringIO()):
            scoring = tools.cocoeval.COCOeval(self.truth, self.truth.loadRes(results), kind)
            scoring.evaluate()
            scoring.accumulate()
            scoring.summarize()
        values = [100 * float(value) if value >= 0 else -1.0 for value in scoring.stats[:6]]
        return dict(zip(FIGURES, values, strict=True))


def draw_scene(seed: int, *, side: int = 128) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Draw a square and a disc on noise; return the image (H, W, 3) and its COCO annotations."""
    tools, draw = import_pycocotools(), np.random.default_rng(seed)
    image = 0.3 * draw.random((side, side, 3))
    rows, columns = np.mgrid[:side, :side]
    objects: list[dict[str, Any]] = []
    occupied = np.zeros((side, side), bool)
    while len(objects) < len(NAMES):
        category = len(objects) + 1
        radius = int(draw.integers(side // 10, side // 5))
        y, x = draw.integers(radius, side - radius, 2)
        across, down = abs(columns - x), abs(rows - y)
        inside = (np.maximum(across, down) if category == 1 else np.hypot(across, down)) < radius
        if (occupied & inside).any():
            continue
        occupied |= inside
        image[inside] = 0.7 + 0.3 * draw.random(3)
        mask = tools.mask.encode(np.asfortranarray(inside.astype(np.uint8)))
        box = [float(value) for value in tools.mask.toBbox(mask)]
        mask["counts"] = mask["counts"].decode()
        objects.append(
            {
                "category_id": category,
                "bbox": box,
                "segmentation": mask,
                "area": int(inside.sum()),
                "iscrowd": 0,
            }
        )
    return (255 * image).astype(np.uint8), objects


def draw_set(folder: Path, scenes: int, *, seed: int = 0, side: int = 128) -> tuple[Path, Path]:
    """Write drawn scenes as a COCO data set; return the annotation file and the folder of images."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    entries, annotations = [], []
    for n in range(scenes):
        image, objects = draw_scene(1_000_000 * seed + n, side=side)
        Image.fromarray(image).save(images / f"{n:05d}.png")
        entries.append({"id": n + 1, "file_name": f"{n:05d}.png", "height": side, "width": side})
        for each in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": n + 1, **each})
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES, 1)]
    file = folder / "instances.json"
    file.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": categories}))
    return file, images
