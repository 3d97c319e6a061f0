"""Predicted images as files: ids, colors, overlays, probabilities."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np

from segkit.data.label_map import LabelMap
from segkit.runtime import files
from segkit.visualize import overlays

KINDS = {"ids": ".png", "colors": ".png", "overlays": ".jpg", "probabilities": ".npz"}


LEGEND_WIDTH = 1000  # pixels; a wider image has its legend enlarged, so that it can be read beside it


def output_path(folder: Path, kind: str, name: str) -> Path:
    """Where one kind of image of one name is kept."""
    return folder / kind / f"{name}{KINDS[kind]}"


def save_prediction(
    folder: Path,
    name: str,
    image: np.ndarray,
    ids: np.ndarray,
    table: LabelMap,
    *,
    kinds: Collection[str],
    probabilities: np.ndarray | None = None,
) -> None:
    """Write what was predicted for one image, each file whole or not at all.

    Args:
        folder: of the results; each kind has a folder in it.
        name: of the image, with folders.
        image: (H, W, 3) uint8 RGB.
        ids: (H, W) class ids.
        table: of the classes.
        kinds: ``ids`` as the data set's masks have them, ``colors``, ``overlays`` with a legend,
            ``probabilities``.
        probabilities: (K, H, W), for ``probabilities``.
    """
    assert ids.shape == image.shape[:2], (name, ids.shape, image.shape)
    if "ids" in kinds:
        overlays.save_image(output_path(folder, "ids", name), table.decode(ids))
    if "colors" in kinds:
        overlays.save_image(output_path(folder, "colors", name), overlays.colorize(ids, table.colors))
    if "overlays" in kinds:
        overlays.save_image(output_path(folder, "overlays", name), add_legend(image, ids, table))
    if "probabilities" in kinds:
        assert probabilities is not None
        target = output_path(folder, "probabilities", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(target) as file:
            np.savez_compressed(file, probabilities=probabilities.astype(np.float16), names=table.names)


def save_geotiff(folder: Path, name: str, raw: np.ndarray, source: Path) -> None:
    """Raw ids (H, W) as a GeoTIFF in the place of their source, beside the PNG, if it has one on Earth.

    Needs rasterio; without it, or for images that say no place, nothing is written.
    """
    if source.suffix.lower() not in (".tif", ".tiff", ".jp2") or not importlib.util.find_spec("rasterio"):
        return
    import rasterio
    import rasterio.errors

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(source) as file:
            crs, transform, shape = file.crs, file.transform, file.shape
        if (crs is None and transform.is_identity) or shape != raw.shape:
            return
        profile = {"height": raw.shape[0], "width": raw.shape[1], "count": 1, "dtype": raw.dtype.name}
        with rasterio.MemoryFile() as memory:
            with memory.open(
                driver="GTiff", crs=crs, transform=transform, compress="deflate", **profile
            ) as file:
                file.write(raw, 1)
            with files.atomic_write(output_path(folder, "ids", name).with_suffix(".tif")) as target:
                target.write(memory.read())


def add_legend(image: np.ndarray, ids: np.ndarray, table: LabelMap) -> np.ndarray:
    """The image with its classes painted over it, and below it the names of those that occur."""
    present = np.unique(ids)
    names = [table.names[k] for k in present]
    width = image.shape[1]
    times = max(1, round(width / LEGEND_WIDTH))
    legend = overlays.draw_legend(names, table.colors[present], width=width // times)
    if times > 1:
        legend = cv2.resize(legend, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
    return overlays.stack_vertically(overlays.draw_overlay(image, ids, table.colors), legend)
