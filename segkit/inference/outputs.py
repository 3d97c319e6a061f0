"""Prediction files of an image: ids, colors, overlays, probabilities."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np

from segkit.data.label_map import LabelMap
from segkit.runtime import files
from segkit.visualize import overlays

KINDS = {"ids": ".png", "colors": ".png", "overlays": ".jpg", "probabilities": ".npz"}


def output_path(folder: Path, kind: str, name: str) -> Path:
    """Return the file of one kind for the image of this name."""
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
    source: Path | None = None,
) -> None:
    """Write the prediction of one image, each file atomically.

    Args:
        folder: of the results; receives a folder for each kind.
        name: of the image, with its folders.
        image: (H, W, 3) uint8 RGB.
        ids: (H, W) class ids.
        table: of the classes.
        kinds: ``ids`` as in the data set's masks, ``colors``, ``overlays`` with a legend, ``probabilities``.
        probabilities: (K, H, W), for ``probabilities``.
        source: file of the image; if it is a GeoTIFF, the ids are also written as one.
    """
    assert ids.shape == image.shape[:2], (name, ids.shape, image.shape)
    if "ids" in kinds:
        raw = table.decode(ids)
        overlays.save_image(output_path(folder, "ids", name), raw)
        if source is not None and source.suffix.lower() in (".tif", ".tiff", ".jp2"):
            _save_geotiff(output_path(folder, "ids", name).with_suffix(".tif"), raw, source)
    if "colors" in kinds:
        overlays.save_image(output_path(folder, "colors", name), overlays.colorize(ids, table.colors))
    if "overlays" in kinds:
        overlay = overlays.draw_overlay(image, ids, table.colors)
        with_legend = overlays.add_legend(overlay, [ids], table.names, table.colors)
        overlays.save_image(output_path(folder, "overlays", name), with_legend)
    if "probabilities" in kinds:
        assert probabilities is not None
        path = output_path(folder, "probabilities", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(path) as file:
            np.savez_compressed(file, probabilities=probabilities.astype(np.float16), names=table.names)


def _save_geotiff(path: Path, raw: np.ndarray, source: Path) -> None:
    """Write raw ids (H, W) with the position of the source image; nothing if it has none, or no rasterio."""
    if not importlib.util.find_spec("rasterio"):
        return
    import rasterio
    import rasterio.errors

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(source) as file:
            crs, transform, shape = file.crs, file.transform, file.shape
    has_position = crs is not None or not transform.is_identity
    if not has_position or shape != raw.shape:
        return
    profile = {"height": raw.shape[0], "width": raw.shape[1], "count": 1, "dtype": raw.dtype.name}
    profile |= {"driver": "GTiff", "crs": crs, "transform": transform, "compress": "deflate"}
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(raw, 1)
        with files.atomic_write(path) as target:
            target.write(memory.read())
