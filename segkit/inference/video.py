"""Videos and cameras: frames in, and out into a file that has its name only when it is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import cv2
import numpy as np

from segkit.drawing import overlays

FALLBACK_RATE = 25.0  # frames per second, where a camera does not say


class Video:
    """The frames of a file or of a camera, (H, W, 3) uint8 RGB, turned as the file says.

    Attributes:
        rate: frames per second.
        length: number of frames by the file's own account; None for a camera.
        endless: whether it is a camera.

    Raises:
        ValueError: it cannot be opened.
    """

    def __init__(self, source: str | int) -> None:
        self.source, self.endless = source, isinstance(source, int)
        self.capture = cv2.VideoCapture(source if isinstance(source, int) else str(Path(source).expanduser()))
        if not self.capture.isOpened():
            what = "no camera answers" if self.endless else "not a video that can be read"
            raise ValueError(f"input={source}: {what}")
        self.rate = self.capture.get(cv2.CAP_PROP_FPS) or FALLBACK_RATE
        count = int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.length = count if count > 0 and not self.endless else None

    def __iter__(self) -> Iterator[np.ndarray]:
        seen = 0
        while (read := self.capture.read())[0]:
            seen += 1
            yield cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
        self.capture.release()
        if not seen:
            raise ValueError(f"input={self.source}: not one frame can be read")


class VideoFile:
    """A video being written; a context, on leaving which the file is there, or after an error nothing is.

    Args:
        path: ``.mp4``.
        rate: frames per second.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate, self.writer = path, rate, None
        self.last: np.ndarray | None = None
        self.temporary = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")

    def __enter__(self) -> Self:
        return self

    def add(self, image: np.ndarray) -> None:
        """Append a frame (H, W, 3) uint8 RGB; all have the size of the first. Odd sides lose a line."""
        height, width = (side - side % 2 for side in image.shape[:2])  # the codec wants even ones
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self.writer = cv2.VideoWriter(str(self.temporary), codec, self.rate, (width, height))
            if not self.writer.isOpened():
                raise OSError(f"{self.temporary}: cannot be written as a video")
        self.last = cv2.cvtColor(image[:height, :width], cv2.COLOR_RGB2BGR)
        self.writer.write(self.last)

    def repeat(self) -> None:
        """Append the last frame once more, if there is one."""
        if self.writer is not None and self.last is not None:
            self.writer.write(self.last)

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self.writer is None:
            return
        self.writer.release()
        if kind is None:
            self.temporary.replace(self.path)
        self.temporary.unlink(missing_ok=True)


def with_legend_strip(
    image: np.ndarray, ids: np.ndarray, names: list[str], colours: np.ndarray
) -> np.ndarray:
    """An overlay with a strip below it, of one height for all frames of a size.

    It names all classes; where they would take more than a third of the image, those in it, largest first.
    """
    height, width = ids.shape
    every = overlays.legend(names, colours, width=width)
    strip = overlays.blank(min(every.shape[0], max(height // 3, overlays.LINE + 8)), width)
    if every.shape[0] > strip.shape[0]:
        pixels = np.bincount(ids.ravel(), minlength=len(names))
        shown = [k for k in np.argsort(-pixels, kind="stable") if pixels[k]]
        every = overlays.legend([names[k] for k in shown], colours[shown], width=width)
    overlays.paste(strip, every[: strip.shape[0], :width], (0, 0))
    return np.concatenate([overlays.overlay(image, ids, colours), strip])
