"""Videos and cameras: frames in, and out into a file that has its name only when it is complete."""

from __future__ import annotations

import bisect
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import cv2
import numpy as np

from segkit.visualize import overlays

VIDEO_CHUNKS = (b"dc", b"db")  # of AVI: compressed and raw frames
FALLBACK_RATE = 25.0  # frames per second, where a camera does not say


class Video:
    """Numbered frames (H, W, 3) uint8 RGB of a file or of a camera, turned as the file says.

    A frame that cannot be decoded is left out, and the others keep their numbers.

    Attributes:
        rate: frames per second.
        length: number of frames that the file should have; None for a camera.
        endless: whether it is a camera.
        seen: frames read so far.

    Raises:
        ValueError: it cannot be opened.
    """

    def __init__(self, source: Path | int) -> None:
        self.source, self.endless, self.seen = source, isinstance(source, int), 0
        # decoders print a line for each damaged block; unreadable frames are counted here
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        self.capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self.capture.isOpened():
            reason = "no camera answers" if self.endless else "not a video that can be read"
            raise ValueError(f"input={source}: {reason}")
        self.rate = self.capture.get(cv2.CAP_PROP_FPS) or FALLBACK_RATE
        self.times = [] if isinstance(source, int) else _packet_times(source)
        self.length = None if isinstance(source, int) else self._count(source)
        self.numbers = [] if isinstance(source, int) else self._number_packets(source)

    def _count(self, file: Path) -> int:
        """Return the number of frames: those whose data are there, more where the file names more.

        MP4 and AVI store the number. Of others OpenCV estimates it from the duration.
        """
        named, tolerance = int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
        if file.suffix.lower() not in (".mp4", ".m4v", ".mov", ".avi"):
            tolerance = max(1, named // 50)
        return named if named > len(self.times) + tolerance else len(self.times)

    def _number_packets(self, file: Path) -> list[int]:
        """Return the number of each frame whose data are there; some may be missing in between."""
        found = list(range(len(self.times)))
        if self.length == len(found):
            return found
        if file.suffix.lower() == ".avi":  # its packets have no times of their own
            numbers = _numbers_of_avi(file)
            return numbers if len(numbers) == len(found) else found
        places = np.array(self.times) * self.rate / 1000
        numbers = np.rint(places).astype(int)
        is_constant_rate = np.abs(places - numbers).max(initial=0) < 0.25 and (np.diff(numbers) > 0).all()
        return numbers.tolist() if is_constant_rate else found

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        number, failures = -1, 0
        while True:
            is_read, image = self.capture.read()
            if is_read:
                number = max(number + 1, self._number_of(self.capture.get(cv2.CAP_PROP_POS_MSEC)))
                self.seen += 1
                yield number, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                continue
            if failures >= len(self.times) - self.seen:
                break
            failures += 1  # a frame that cannot be decoded; others may follow
        self.capture.release()
        if not self.seen:
            raise ValueError(f"input={self.source}: not one frame can be read")

    def _number_of(self, time: float) -> int:
        """Return the number of the frame of this time (ms), 0 if it is unknown."""
        place = bisect.bisect_left(self.times, time - 0.5)
        is_known = place < len(self.times) and len(set(self.times)) == len(self.times)
        return self.numbers[place] if is_known else 0


def _packet_times(file: Path) -> list[float]:
    """Return the times (ms) of the frames in a file, in order, without decoding them.

    A frame before time 0 was trimmed away, and is not shown.
    """
    packets = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    times = []
    while packets.grab():
        times.append(packets.get(cv2.CAP_PROP_POS_MSEC))
    return sorted(time for time in times if time > -0.5)


def _numbers_of_avi(file: Path) -> list[int]:
    """Return the numbers of the frames whose chunks are where the index of an AVI file (idx1) says."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at, movi = data.rfind(b"idx1"), data.find(b"movi")
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if at < 0 or size % 16:
            return []
        fields = [("chunk", "S4"), ("flags", "<u4"), ("offset", "<u4"), ("size", "<u4")]
        entries = np.frombuffer(data[at + 8 : at + 8 + size - size % 16], fields)
        frames = [
            (chunk, int(offset)) for chunk, _, offset, _ in entries.tolist() if chunk[2:] in VIDEO_CHUNKS
        ]
        found = [
            [
                n
                for n, (chunk, offset) in enumerate(frames)
                if data[start + offset : start + offset + 4] == chunk
            ]
            for start in (movi, 0)  # offsets count from there, or from the beginning of the file
        ]
    return max(found, key=len)


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


def add_legend_strip(image: np.ndarray, ids: np.ndarray, names: list[str], colors: np.ndarray) -> np.ndarray:
    """An overlay with a strip below it, of one height for all frames of a size.

    It names all classes; where they would take more than a third of the image, those in it, largest first.
    """
    height, width = ids.shape
    every = overlays.draw_legend(names, colors, width=width)
    strip = overlays.blank_canvas(min(every.shape[0], max(height // 3, overlays.LINE + 8)), width)
    if every.shape[0] > strip.shape[0]:
        pixels = np.bincount(ids.ravel(), minlength=len(names))
        shown = [k for k in np.argsort(-pixels, kind="stable") if pixels[k]]
        every = overlays.draw_legend([names[k] for k in shown], colors[shown], width=width)
    overlays.paste_image(strip, every[: strip.shape[0], :width], (0, 0))
    return np.concatenate([overlays.draw_overlay(image, ids, colors), strip])
