"""Prediction of many images or of a video; existing outputs are skipped, failures are collected."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from segkit.inference import outputs, pipeline, sources
from segkit.inference.prediction_index import ImageFile
from segkit.inference.predictor import Predictor
from segkit.inference.video import Video, VideoFile, add_legend_strip
from segkit.runtime import distributed
from segkit.runtime.text import format_count
from segkit.types import class_id_dtype
from segkit.visualize.overlays import colorize, to_display_rgb

VIDEO_KINDS = ("colors", "overlays")  # written as videos if the input is one


class Outcome(NamedTuple):
    """Numbers of images or frames, and one line for each failure."""

    predicted: int
    skipped: int
    failed: int
    failures: list[str]
    dropped: int = 0  # frames of a camera

    def __str__(self) -> str:
        text = f"{self.predicted} predicted, {self.skipped} skipped, {self.failed} failed"
        if self.dropped:
            text += f" ({self.dropped} more were dropped while the network was busy)"
        return text


def predict_images(
    predictor: Predictor, images: Sequence[ImageFile], folder: Path, *, kinds: Collection[str], resume: bool
) -> Outcome:
    """Predict images, distributed over the ranks, and write the missing outputs.

    Raises:
        ValueError: outputs exist and ``resume`` is false, or the first image cannot be predicted, as with
            broken weights.
    """
    missing = {image: _missing_kinds(folder, image.name, kinds) for image in images}
    existing = sum(len(missing[image]) < len(set(kinds)) for image in images)
    _check_resume(folder, existing, f"{existing} of these {len(images)} predictions", resume=resume)
    distributed.barrier()  # no rank writes before all have looked
    pending = [image for image in images if missing[image]]
    own_images = pending[distributed.rank() :: distributed.world_size()]
    is_disabled = None if distributed.is_main() else True  # None: disabled without a terminal
    predicted, failures = 0, []
    reader = pipeline.read_ahead(sources.read_images(own_images, predictor.bands))
    with pipeline.write_behind() as submit:
        for image, pixels in tqdm(reader, "predicting", len(own_images), unit="image", disable=is_disabled):
            if isinstance(pixels, Exception):
                failures.append(str(pixels))
                continue
            needed = missing[image]
            try:
                ids, probabilities = _predict(predictor, pixels, needed)
            except ValueError as error:  # for example, not the fixed size of an exported file
                if not predicted:
                    raise
                failures.append(f"{image.file}: {error}")
                continue
            predicted += 1
            rgb = to_display_rgb(pixels, predictor.bands)
            options = {"kinds": needed, "probabilities": probabilities, "source": image.file}
            submit(outputs.save_prediction, folder, image.name, rgb, ids, predictor.table, **options)
    failures = [line for part in distributed.gather(failures) for line in part]
    return Outcome(len(pending) - len(failures), len(images) - len(pending), len(failures), failures)


def predict_video(
    predictor: Predictor, video: Video, folder: Path, name: str, *, kinds: Collection[str], resume: bool
) -> Outcome:
    """Predict frame by frame; colors and overlays are written as videos, ids and probabilities per frame.

    A camera is read until Ctrl-C. Whenever the network is free it takes the newest frame; others are dropped.
    The output video repeats the last frame in place of dropped and unreadable frames, so it lasts as long as
    its source.

    Raises:
        ValueError: outputs exist and ``resume`` is false, or the network's weights are broken.
    """
    video_paths = {kind: folder / kind / f"{name}.mp4" for kind in VIDEO_KINDS if kind in kinds}
    frame_kinds = [kind for kind in kinds if kind not in VIDEO_KINDS]
    expected = [*video_paths.values(), *(folder / kind / name for kind in frame_kinds)]
    existing = sum(path.exists() for path in expected)
    _check_resume(folder, existing, f"{format_count(existing, 'output')} of {name}", resume=resume)
    predicted, skipped = 0, 0
    next_number = 0  # of the output videos
    interrupts = [KeyboardInterrupt] if video.endless else []
    read = pipeline.read_newest if video.endless else pipeline.read_ahead
    with contextlib.ExitStack() as stack, contextlib.suppress(*interrupts):  # files are closed after Ctrl-C
        video_files = {
            kind: stack.enter_context(VideoFile(path, video.rate))
            for kind, path in video_paths.items()
            if not path.exists()
        }
        submit = stack.enter_context(pipeline.write_behind())
        reader = stack.enter_context(contextlib.closing(read(video)))
        for number, image in tqdm(reader, "predicting", video.length, unit="frame", disable=None):
            frame_name = f"{name}/{number:06d}"
            repeats, next_number = number - next_number, number + 1
            needed = _missing_kinds(folder, frame_name, frame_kinds)
            if not needed and not video_files:
                skipped += 1
                continue
            ids, probabilities = _predict(predictor, image, needed)
            options = {"kinds": needed, "probabilities": probabilities}
            submit(outputs.save_prediction, folder, frame_name, image, ids, predictor.table, **options)
            for kind, file in video_files.items():
                submit(_add_frame, file, kind, image, ids, predictor, repeats=repeats)
            predicted += 1
    if video.length is None:
        return Outcome(predicted, skipped, 0, [], dropped=next_number - predicted - skipped)
    failed, failures = max(video.length - video.seen, 0), []
    if failed:
        failures = [f"{video.source}: only {video.seen} of {video.length} frames can be read"]
    return Outcome(predicted, skipped, failed, failures)


def _missing_kinds(folder: Path, name: str, kinds: Collection[str]) -> list[str]:
    return [kind for kind in kinds if not outputs.output_path(folder, kind, name).exists()]


def _check_resume(folder: Path, existing: int, description: str, *, resume: bool) -> None:
    if existing and not resume:
        raise ValueError(
            f"output={folder}: has {description} already. Skip them with resume=true, or choose "
            "another output=..."
        )


def _predict(
    predictor: Predictor, image: np.ndarray, kinds: Collection[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return class ids, and probabilities if they are among the kinds."""
    if "probabilities" not in kinds:
        return predictor.predict(image), None
    probabilities = predictor.probabilities(image)
    return probabilities.argmax(0).astype(class_id_dtype(len(probabilities))), probabilities


def _add_frame(
    file: VideoFile, kind: str, image: np.ndarray, ids: np.ndarray, predictor: Predictor, *, repeats: int
) -> None:
    """Append a frame, after ``repeats`` copies of the last one (of this one at the start)."""
    table = predictor.table
    if kind == "colors":
        frame = colorize(ids, table.colors)
    else:
        frame = add_legend_strip(image, ids, table.names, table.colors)
    file.add(frame, repeats=repeats)
