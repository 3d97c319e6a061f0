"""Verification of exported files: their class ids are compared with PyTorch's, pixel by pixel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from segkit.config import registry
from segkit.data.pairs import read_image
from segkit.export.exported_model import ExportedModel
from segkit.export.interfaces import ExportKind
from segkit.inference import sources
from segkit.inference.protocol import Protocol
from segkit.inference.sliding import iterate_strips, predict
from segkit.models.network import Segmenter

MIN_EQUAL = {  # required fraction of equal pixels
    "fp32": 0.9999,  # rounding changes pixels whose two best logits agree to five digits
    # bf16 (8 bits) was measured at 99.80 % (docs/results.md). fp16 has 11 bits, so 1/8 of the difference is
    # expected, 0.025 %; four times as much is allowed
    "fp16": 0.999,
}
MAX_INT8_DROP = 0.005  # of mIoU
SMALLER_SIZES = ((0.77, 97), (0.53, 65))  # factor and minimum side in pixels; sides are made odd


class Comparison(NamedTuple):
    """Agreement of file and PyTorch for an image at one size."""

    height: int
    width: int
    pixels: int
    equal: int
    difference: float  # largest logit margin of PyTorch's class over a different class of the file


def load_verification_images(
    source: str | None, data: Mapping[str, Any] | None, *, split: str, count: int
) -> tuple[list[np.ndarray], str]:
    """Return images of ``source``, else evenly spaced ones of the data set, else synthetic scenes.

    The second value describes their origin.

    Args:
        source: image, folder, pattern or list.
        data: settings of a data set, if known.
        split: ``train`` or ``val``.
        count: maximum number.

    Raises:
        ValueError: ``source`` has no readable images.
    """
    if source is not None:
        found = sources.find_images(source)
        if found.video is not None:
            raise ValueError(f"input={source}: is a video. Give images")
        return [read_image(image.file) for image in _pick_evenly(found.images, count)], source
    dataset: Any = ()
    with contextlib.suppress(ValueError, OSError):  # a checkpoint without its data
        dataset = registry.build("data.datasets", data, split=split) if data else ()
    if data and len(dataset):
        origin = f"the {split} split of {data['name']}"
    else:
        dataset = registry.build("data.datasets", {"name": "shapes", "size": 256}, split=split)
        origin = "synthetic scenes, because there is no data set. Set input=FOLDER to use photographs"
    indices = _pick_evenly(range(len(dataset)), count)
    return [dataset.read(index).image for index in indices], origin


def _pick_evenly(items: Sequence[Any], count: int) -> list[Any]:
    indices = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[index] for index in indices]


def resize_image(image: np.ndarray, size: Sequence[int] | None) -> np.ndarray:
    """Resize an image to (height, width); None leaves it unchanged."""
    if size is None or tuple(size) == image.shape[:2]:
        return image
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)


def prepare_input(model: Segmenter, image: np.ndarray, kind: ExportKind) -> np.ndarray:
    """Return a batch of one image in the form that an exported file takes."""
    pixels = np.ascontiguousarray(resize_image(image, kind.image_size))[None]
    if kind.interface == "ids":
        return pixels
    return model.normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2)).float().cpu().numpy()


def compare_outputs(
    model: Segmenter, file: ExportedModel, images: Sequence[np.ndarray]
) -> Iterator[Comparison]:
    """Yield the agreement of PyTorch in float32 and of the file's runtime, for each image at each size."""
    protocol = Protocol()
    segmenter: Any = file
    device = next(model.parameters()).device
    for image in images:
        sizes = [image.shape[:2]]
        for factor, minimum in SMALLER_SIZES:
            sizes.append(tuple(max(int(side * factor), minimum) | 1 for side in image.shape[:2]))
        for height, width in sizes if file.image_size is None else [file.image_size]:
            resized = torch.from_numpy(resize_image(image, (height, width))).permute(2, 0, 1)
            ids = predict(segmenter, resized, protocol).long()
            equal, difference = 0, 0.0
            for strip in iterate_strips(model, resized.to(device), protocol):
                rows = ids[strip.top : strip.bottom]
                largest, expected = strip.scores.max(2)
                file_scores = strip.scores.gather(2, rows[..., None])[..., 0]
                equal += int((rows == expected).sum())
                difference = max(difference, float((largest - file_scores).max()))
            yield Comparison(height, width, ids.numel(), equal, difference)


def check_agreement(comparisons: Sequence[Comparison], kind: ExportKind, path: Path) -> str:
    """Return a sentence about the agreement.

    Raises:
        ValueError: too many pixels differ. ``int8`` is checked by its score instead.
    """
    pixels, equal = sum(c.pixels for c in comparisons), sum(c.equal for c in comparisons)
    percent = np.floor(1e6 * equal / pixels) / 1e4  # 100 only if all pixels are equal
    summary = (
        f"{percent:.4f} % of {pixels:,} pixels are equal; elsewhere the logit of PyTorch's class is larger "
        f"by at most {max(c.difference for c in comparisons):.2g}"
    )
    required = MIN_EQUAL.get(kind.precision, 0.0)
    if equal / pixels < required:
        raise ValueError(
            f"{path} is not written: {summary}. precision={kind.precision} requires {required:.2%}. Try "
            "another format=..., precision=fp32, or a fixed image_size=[height,width]"
        )
    return summary


def check_int8_drop(before: float, after: float, path: Path) -> None:
    """Check that int8 lowers mIoU, a fraction, by at most ``MAX_INT8_DROP``.

    Raises:
        ValueError: mIoU drops by more, or is NaN.
    """
    if before - after > MAX_INT8_DROP or np.isnan(after):
        raise ValueError(
            f"{path} is not written: int8 lowers validation mIoU from {before:.2%} to {after:.2%}, by more "
            f"than {100 * MAX_INT8_DROP:.1f} points. Try more calibration_images=..., or precision=fp16"
        )
