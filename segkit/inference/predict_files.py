"""Prediction of many images or of a video: what is there already is left out, failures are collected."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from segkit.inference import outputs, sources
from segkit.inference.pipeline import ReaderThread, WriterThread
from segkit.inference.prediction_index import ImageFile
from segkit.inference.predictor import Predictor
from segkit.inference.video import Video, VideoFile, add_legend_strip
from segkit.runtime import distributed
from segkit.types import class_id_dtype
from segkit.visualize.overlays import colorize, to_display_rgb

STREAMS = ("colors", "overlays")  # kinds of which a video makes a video


class Outcome(NamedTuple):
    """Numbers of images or frames, and a line about each failure."""

    predicted: int
    skipped: int
    failed: int
    failures: list[str]

    def __str__(self) -> str:
        return f"{self.predicted} predicted, {self.skipped} skipped, {self.failed} failed"


def predict_images(
    predictor: Predictor, images: Sequence[ImageFile], folder: Path, *, kinds: Collection[str], resume: bool
) -> Outcome:
    """Predict images, shared out to the processes, and write the outputs that are missing.

    Args:
        predictor: of the trained network.
        images: with the names that ``prediction_index.claim`` gave them.
        folder: receives a folder of each kind.
        kinds: of ``outputs.KINDS``.
        resume: leave out what is there.

    Raises:
        ValueError: outputs are there and ``resume`` is false, or the first image cannot be predicted, as with
            broken weights.
    """
    missing = {image: _missing(folder, image.name, kinds) for image in images}
    there = [image for image, needed in missing.items() if len(needed) < len(set(kinds))]
    _check_resume(folder, len(there), f"of these {len(images)} predictions", resume=resume)
    distributed.barrier()  # nobody writes before all have looked
    waiting = [image for image in images if missing[image]]
    mine = waiting[distributed.rank() :: distributed.world_size()]
    is_silent = None if distributed.is_main() else True  # None: silent where there is no terminal
    predicted, failures = 0, []
    with WriterThread() as writing:
        reading = sources.read_images(mine, predictor.bands)
        for image, pixels in tqdm(reading, "predicting", len(mine), unit="image", disable=is_silent):
            if isinstance(pixels, Exception):
                failures.append(str(pixels))
                continue
            needed = missing[image]
            try:
                ids, probabilities = _predict(predictor, pixels, needed)
            except ValueError as error:  # such as another size than that of an exported file
                if not predicted:
                    raise
                failures.append(f"{image.file}: {error}")
                continue
            predicted += 1
            shown = to_display_rgb(pixels, predictor.bands)
            options = {"kinds": needed, "probabilities": probabilities}
            writing.submit(
                outputs.save_prediction, folder, image.name, shown, ids, predictor.table, **options
            )
            if "ids" in needed:
                raw = predictor.table.decode(ids)
                writing.submit(outputs.save_geotiff, folder, image.name, raw, image.file)
    failures = [line for part in distributed.gather(failures) for line in part]
    return Outcome(len(waiting) - len(failures), len(images) - len(waiting), len(failures), failures)


def predict_video(
    predictor: Predictor, video: Video, folder: Path, name: str, *, kinds: Collection[str], resume: bool
) -> tuple[Outcome, int]:
    """Predict frame by frame: colors and overlays become videos, ids and probabilities a file each frame.

    A camera is looked at until Ctrl-C. Of its frames the newest is taken each time the network is free; the
    others are dropped. A video shows the frame before in place of dropped and of unreadable ones, so that it
    lasts as long as its source.

    Returns:
        The outcome, and the number of frames that were dropped.

    Raises:
        ValueError: outputs are there and ``resume`` is false, or the network's weights are broken.
    """
    streams = {kind: folder / kind / f"{name}.mp4" for kind in STREAMS if kind in kinds}
    stills = [kind for kind in kinds if kind not in STREAMS]
    there = [path for path in streams.values() if path.exists()]
    there += [folder / kind / name for kind in stills if (folder / kind / name).exists()]
    _check_resume(folder, len(there), f"output{'s' * (len(there) > 1)} of {name}", resume=resume)
    predicted = skipped = dropped = 0
    following = 0  # number of the next frame of the streams
    until = contextlib.suppress(KeyboardInterrupt) if video.endless else contextlib.nullcontext()
    with contextlib.ExitStack() as stack, until:
        files = {
            kind: stack.enter_context(VideoFile(path, video.rate))
            for kind, path in streams.items()
            if not path.exists()
        }
        writing = stack.enter_context(WriterThread())
        reading = stack.enter_context(ReaderThread(video, drop=video.endless))
        for (number, image), lost in tqdm(reading, "predicting", video.length, unit="frame", disable=None):
            still = f"{name}/{number:06d}"
            dropped += lost
            needed = _missing(folder, still, stills)
            if not needed and not files:
                skipped += 1
                continue
            ids, probabilities = _predict(predictor, image, needed)
            options = {"kinds": needed, "probabilities": probabilities}
            writing.submit(outputs.save_prediction, folder, still, image, ids, predictor.table, **options)
            for kind, file in files.items():
                repeats = number - following
                writing.submit(_add_frame, file, kind, image, ids, predictor, repeats=repeats)
            following = number + 1
            predicted += 1
    failed = 0 if video.length is None else max(0, video.length - video.seen)
    failures = [f"{video.source}: only {video.seen} of {video.length} frames can be read"] if failed else []
    return Outcome(predicted, skipped, failed, failures), dropped


def _missing(folder: Path, name: str, kinds: Collection[str]) -> list[str]:
    return [kind for kind in kinds if not outputs.output_path(folder, kind, name).exists()]


def _check_resume(folder: Path, there: int, of_what: str, *, resume: bool) -> None:
    if there and not resume:
        raise ValueError(
            f"{folder} holds {there} {of_what}; leave them out with resume=true or choose another output=..."
        )


def _predict(
    predictor: Predictor, image: np.ndarray, kinds: Collection[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return class ids, and probabilities where they are wanted."""
    if "probabilities" not in kinds:
        return predictor.predict(image), None
    probabilities = predictor.probabilities(image)
    return probabilities.argmax(0).astype(class_id_dtype(len(probabilities))), probabilities


def _add_frame(
    file: VideoFile, kind: str, image: np.ndarray, ids: np.ndarray, predictor: Predictor, *, repeats: int
) -> None:
    """Append a frame; before it the last one for each that is missing, at the start the frame itself."""
    table = predictor.table
    if kind == "colors":
        drawn = colorize(ids, table.colors)
    else:
        drawn = add_legend_strip(image, ids, table.names, table.colors)
    for _ in range(repeats):
        if file.last is None:
            file.add(drawn)
        else:
            file.repeat()
    file.add(drawn)
