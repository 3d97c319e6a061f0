"""Whether an exported file says what PyTorch says: the same images through both, pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from segkit.config import registry
from segkit.data.pairs import read_image
from segkit.export.deployed import ExportedModel
from segkit.export.interfaces import ExportKind
from segkit.inference import sources
from segkit.inference.protocol import Protocol
from segkit.inference.sliding import Strip, predict
from segkit.models.network import Segmenter

LEAST_EQUAL = {
    "fp32": 0.9999,  # rounding turns pixels whose best two classes are equal to five digits
    # bf16, of 8 bits, was measured to leave 99.80 % (docs/results.md); halves have 11, so an eighth of that
    # differs, 0.025 %: four times as much is let through
    "fp16": 0.999,
}
LARGEST_LOSS = 0.005  # of mIoU, by int8
SMALLER = (
    (0.77, 97),
    (0.53, 65),
)  # besides an image's own size: factors, made odd, and the least side in pixels


class VerificationImages(NamedTuple):
    """Some images and where they are from, in words."""

    origin: str
    images: list[np.ndarray]  # (H, W, 3) uint8 RGB


class Comparison(NamedTuple):
    """What was found at one size."""

    height: int
    width: int
    pixels: int
    equal: int
    difference: float  # logits by which PyTorch preferred its own class where the file says another


def load_verification_images(
    given: str | None, data: Mapping[str, Any] | None, *, split: str, count: int
) -> VerificationImages:
    """Images of a folder; else of the data set, evenly spread; else drawn scenes.

    Args:
        given: of the settings: a folder, pattern or list.
        data: settings of a data set, if one is known.
        split: ``train`` or ``val``.
        count: how many, at most.

    Raises:
        ValueError: nothing is there, or it cannot be read.
    """
    if given is not None:
        source = sources.find_images(given)
        if source.is_video:
            raise ValueError(f"input={given}: a video; give images to compare on")
        return VerificationImages(given, [read_image(image.file) for image in _spread(source.images, count)])
    origin = "drawn scenes, as no data set is at hand: give input=FOLDER for photographs"
    dataset = None
    if data:
        try:
            dataset = registry.build("data.datasets", data, split=split)
            origin = f"the {split} split of {data['name']}"
        except (ValueError, OSError):
            dataset = None  # a checkpoint may have come without its data
    if dataset is None or not len(dataset):
        dataset = registry.build("data.datasets", {"name": "shapes", "size": 256}, split=split)
    return VerificationImages(
        origin, [dataset.read(index).image for index in _spread(range(len(dataset)), count)]
    )


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]


def resize_image(image: np.ndarray, size: Sequence[int] | None) -> np.ndarray:
    """The image at a size (height, width); None leaves its own."""
    if size is None or tuple(size) == image.shape[:2]:
        return image
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)


def prepare_input(model: Segmenter, image: np.ndarray, kind: ExportKind) -> np.ndarray:
    """A batch of one image as a file of a kind takes it."""
    pixels = np.ascontiguousarray(resize_image(image, kind.image_size))[None]
    if kind.interface == "ids":
        return pixels
    return model.normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2)).float().cpu().numpy()


def compare_outputs(
    model: Segmenter, file: ExportedModel, images: Sequence[np.ndarray]
) -> Iterator[Comparison]:
    """The images at each size through PyTorch in float32 and through the file's own runtime.

    Args:
        model: the trained network as it is, with nothing folded.
        file: as it was written.
        images: (H, W, 3) uint8 RGB.
    """
    whole = Protocol()
    as_segmenter: Any = file  # it has what inference asks of one
    for image in images:
        for height, width in _sizes(image, file.image_size):
            resized = resize_image(image, (height, width))
            said = predict(as_segmenter, resized, whole)
            difference = 0.0

            def measure(strip: Strip, said: torch.Tensor = said) -> None:
                nonlocal difference
                theirs = strip.scores.gather(2, said[strip.top : strip.bottom, :, None].long())[..., 0]
                difference = max(difference, float((strip.scores.amax(2) - theirs).max()))

            expected = predict(model, resized, whole, on_strip=measure)
            equal = int((said == expected).sum())
            yield Comparison(height, width, said.numel(), equal, difference)


def _sizes(image: np.ndarray, fixed: Sequence[int] | None) -> list[tuple[int, int]]:
    if fixed is not None:
        return [(fixed[0], fixed[1])]
    sides = image.shape[:2]
    smaller = [[max(int(side * factor), least) | 1 for side in sides] for factor, least in SMALLER]
    return [(sides[0], sides[1]), *((height, width) for height, width in smaller)]


def check_agreement(found: Sequence[Comparison], kind: ExportKind, path: Path) -> str:
    """What the comparison found, in words.

    Raises:
        ValueError: too many pixels differ; ``int8`` is judged by its score instead.
    """
    pixels, equal = sum(c.pixels for c in found), sum(c.equal for c in found)
    share = equal / pixels
    words = (
        f"{_floored(share)} % of {pixels:,} pixels are equal; where they differ PyTorch prefers its own "
        f"class by at most {max(c.difference for c in found):.2g} in logits"
    )
    least = LEAST_EQUAL.get(kind.precision, 0.0)
    if share < least:
        worst = min(found, key=lambda c: c.equal / c.pixels)
        other = "try another format=..., or a fixed image_size=[height,width]"
        raise ValueError(
            f"{path} is not written: {words}, and precision={kind.precision} asks for {least:.2%}; the worst "
            f"size was {worst.height}x{worst.width} ({_floored(worst.equal / worst.pixels)} %); "
            + (other if kind.precision == "fp32" else "precision=fp32 is closer")
        )
    return words


def _floored(share: float) -> str:
    """Percent with four places, and 100 only when every pixel is meant."""
    return f"{np.floor(share * 1e6) / 1e4:.4f}"


def check_int8_drop(before: float, after: float, path: Path) -> None:
    """See that 8 bits cost little.

    Args:
        before: mIoU of the network, a fraction.
        after: that of the file.
        path: of the file.

    Raises:
        ValueError: they cost more than ``LARGEST_LOSS``.
    """
    if before - after > LARGEST_LOSS or np.isnan(after):
        raise ValueError(
            f"{path} is not written: int8 lowers validation mIoU from {before:.2%} to {after:.2%}, by more "
            f"than {100 * LARGEST_LOSS:.1f} points; more calibration_images=... may help, or precision=fp16"
        )
