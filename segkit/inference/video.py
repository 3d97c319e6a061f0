"""Videos and cameras: numbered frames in, and atomically written video files out."""

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

AVI_FRAME_CHUNKS = (b"dc", b"db")  # compressed and uncompressed frames
DEFAULT_RATE = 25.0  # frames per second, for cameras that report none


class Video:
    """Numbered frames (H, W, 3) uint8 RGB of a file or a camera, rotated by the file's metadata.

    Frames that cannot be decoded are skipped; the others keep their numbers.

    Attributes:
        rate: frames per second.
        length: number of frames that the file should have; None for a camera.
        endless: the source is a camera.
        seen: frames read so far.

    Raises:
        ValueError: the source cannot be opened.
    """

    def __init__(self, source: Path | int) -> None:
        self.source, self.endless, self.seen = source, isinstance(source, int), 0
        # decoders print a line for each damaged block; unreadable frames are counted here
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        self.capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self.capture.isOpened():
            reason = "no such camera" if self.endless else "not a readable video"
            raise ValueError(f"input={source}: {reason}")
        self.rate = self.capture.get(cv2.CAP_PROP_FPS) or DEFAULT_RATE
        self.times: list[float] = []  # of the frames that the file has data for, in ms
        self.numbers: list[int] = []  # of the same frames; empty if they are unknown
        self.length: int | None = None
        if not isinstance(source, int):
            self.times = _packet_times(source)
            self.length = self._count_frames(source)
            self.numbers = list(range(len(self.times)))
            if self.length != len(self.times):
                self.numbers = self._number_frames(source)
            if len(set(self.times)) < len(self.times):
                self.numbers = []  # some frames have equal times

    def _count_frames(self, file: Path) -> int:
        """Return the number of frames with data, or the number in the header if that is larger.

        MP4 and AVI store the number. For other formats OpenCV estimates it from the duration.
        """
        in_header, tolerance = int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
        if file.suffix.lower() not in (".mp4", ".m4v", ".mov", ".avi"):
            tolerance = max(1, in_header // 50)
        if in_header > len(self.times) + tolerance:
            return in_header
        return len(self.times)

    def _number_frames(self, file: Path) -> list[int]:
        """Return the numbers of the frames with data, consecutive ones if the file has none."""
        if file.suffix.lower() == ".avi":  # its packets have no times
            numbers = _read_avi_numbers(file)
        else:
            positions = np.array(self.times) * self.rate / 1000
            numbers = np.rint(positions).astype(int).tolist()
            if np.abs(positions - numbers).max(initial=0) >= 0.25 or len(set(numbers)) < len(numbers):
                numbers = []  # no constant rate
        return numbers if len(numbers) == len(self.times) else self.numbers

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        number, failures = -1, 0
        while True:
            is_read, image = self.capture.read()
            if is_read:
                index = bisect.bisect_left(self.times, self.capture.get(cv2.CAP_PROP_POS_MSEC) - 0.5)
                number += 1
                if index < len(self.numbers):
                    number = max(number, self.numbers[index])
                self.seen += 1
                yield number, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                continue
            if failures >= len(self.times) - self.seen:
                break
            failures += 1  # an undecodable frame; others may follow
        self.capture.release()
        if not self.seen:
            raise ValueError(f"input={self.source}: no frame can be read")


def _packet_times(file: Path) -> list[float]:
    """Return the times (ms) of the frames in a file, sorted, without decoding them.

    Frames before time 0 were trimmed away and are not shown.
    """
    packets = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    times = []
    while packets.grab():
        times.append(packets.get(cv2.CAP_PROP_POS_MSEC))
    return sorted(time for time in times if time > -0.5)


def _read_avi_numbers(file: Path) -> list[int]:
    """Return the numbers of the frames whose chunks are where the index (idx1) of an AVI file has them."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        index, movi = data.rfind(b"idx1"), data.find(b"movi")
        size = int.from_bytes(data[index + 4 : index + 8], "little")
        if index < 0 or size % 16:
            return []
        entry = [("chunk", "S4"), ("flags", "<u4"), ("offset", "<u4"), ("size", "<u4")]
        entries = np.frombuffer(data[index + 8 : index + 8 + size - size % 16], entry).tolist()
        frames = [(chunk, offset) for chunk, _, offset, _ in entries if chunk[2:] in AVI_FRAME_CHUNKS]
        candidates = []
        for base in (movi, 0):  # offsets count from the "movi" list or from the start of the file
            places = [(base + offset, chunk) for chunk, offset in frames]
            candidates.append([n for n, (at, chunk) in enumerate(places) if data[at : at + 4] == chunk])
    return max(candidates, key=len)


class VideoFile:
    """Writer of a video; a context manager. The file exists only after leaving without an error."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate, self.writer = path, rate, None
        self.last: np.ndarray | None = None
        self.temporary = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")

    def __enter__(self) -> Self:
        return self

    def add(self, image: np.ndarray, *, repeats: int = 0) -> None:
        """Append a frame after ``repeats`` copies of the last one, or of itself at the start.

        Frames (H, W, 3) uint8 RGB have the size of the first; odd sides lose a line.
        """
        height, width = (side - side % 2 for side in image.shape[:2])  # the codec needs even sides
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self.writer = cv2.VideoWriter(str(self.temporary), codec, self.rate, (width, height))
            if not self.writer.isOpened():
                raise OSError(f"{self.temporary}: cannot be written as a video")
        frame = cv2.cvtColor(image[:height, :width], cv2.COLOR_RGB2BGR)
        for _ in range(repeats):
            self.writer.write(frame if self.last is None else self.last)
        self.writer.write(frame)
        self.last = frame

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self.writer is None:
            return
        self.writer.release()
        if kind is None:
            self.temporary.replace(self.path)
        self.temporary.unlink(missing_ok=True)


def add_legend_strip(image: np.ndarray, ids: np.ndarray, names: list[str], colors: np.ndarray) -> np.ndarray:
    """Return an overlay with a legend below it, of the same height for all frames of a size.

    The legend lists all classes; if they need more than a third of the image, those in it, largest first.
    """
    height, width = ids.shape
    legend = overlays.draw_legend(names, colors, width=width)
    strip = overlays.blank_canvas(min(legend.shape[0], max(height // 3, overlays.LINE + 8)), width)
    if legend.shape[0] > strip.shape[0]:
        pixels = np.bincount(ids.ravel(), minlength=len(names))
        present = [k for k in np.argsort(-pixels, kind="stable") if pixels[k]]
        legend = overlays.draw_legend([names[k] for k in present], colors[present], width=width)
    overlays.paste_image(strip, legend[: strip.shape[0], :width], (0, 0))
    return np.concatenate([overlays.draw_overlay(image, ids, colors), strip])
