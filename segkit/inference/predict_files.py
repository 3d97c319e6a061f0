"""Predicting for many images or a video, leaving out what is done and telling what cannot be read."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from segkit.drawing.overlays import colourise, displayed
from segkit.inference import outputs, sources
from segkit.inference.pipeline import Reading, Writing
from segkit.inference.predictor import Predictor
from segkit.inference.video import Video, VideoFile, with_legend_strip
from segkit.system import distributed
from segkit.types import id_type

STREAMS = ("colours", "overlays")  # kinds of which a video makes a video


def of_images(
    predictor: Predictor,
    files: Sequence[sources.ImageFile],
    folder: Path,
    *,
    kinds: Collection[str],
    resume: bool,
) -> list[str]:
    """Predict images, shared out to the processes, and write what is wanted of each.

    Args:
        predictor: of the trained network.
        files: the images.
        folder: receives a folder of each kind, with the folders of the images in it.
        kinds: of ``outputs.KINDS``.
        resume: leave out images of which all kinds are there.

    Returns:
        One line about each image that could not be read.

    Raises:
        ValueError: some are there and are not to be left out, or the network's weights are broken.
    """
    done = [p for p in files if all(outputs.file_of(folder, kind, p.name).exists() for kind in kinds)]
    if done and not resume:
        raise ValueError(
            f"{folder} holds {len(done)} of these {len(files)} predictions; leave them out with resume=true "
            "or choose another output=..."
        )
    distributed.barrier()  # nobody writes before all have looked
    left_out = set(done)
    mine = [p for p in files if p not in left_out][distributed.rank() :: distributed.world_size()]
    silent = None if distributed.is_main() else True  # None: silent where there is no terminal
    unreadable = []
    images = sources.read_ahead(mine, predictor.bands)
    with Writing() as writing:
        for file, image in tqdm(images, "predicting", len(mine), unit="image", disable=silent):
            if isinstance(image, Exception):
                unreadable.append(str(image))
                continue
            ids, probabilities = _predicted(predictor, image, kinds)
            how = {"kinds": kinds, "probabilities": probabilities}
            shown = displayed(image, predictor.bands)
            writing.later(outputs.save, folder, file.name, shown, ids, predictor.table, **how)
            if "ids" in kinds:
                raw = predictor.table.decode(ids)
                writing.later(outputs.save_in_place, folder, file.name, raw, file.file)
    return [line for part in distributed.gather(unreadable) for line in part]


def of_video(
    predictor: Predictor, video: Video, folder: Path, name: str, *, kinds: Collection[str], resume: bool
) -> tuple[int, int]:
    """Predict frame by frame: colours and overlays become videos, ids and probabilities a file each frame.

    A camera is looked at until Ctrl-C. Of its frames the newest is taken each time the network is free; the
    others are dropped, and a video shows the frame before in their place, so that it lasts as long as it was.

    Returns:
        The number of frames that were predicted, and of those that were dropped.

    Raises:
        ValueError: a video is there and is not to be left out, or the network's weights are broken.
    """
    targets = {kind: folder / kind / f"{name}.mp4" for kind in STREAMS if kind in kinds}
    there = [path for path in targets.values() if path.exists()]
    if there and not resume:
        raise ValueError(f"{there[0]} is there already; resume=true leaves it, or choose another output=...")
    wanted = {kind: path for kind, path in targets.items() if path not in there}
    stills = [kind for kind in kinds if kind not in STREAMS]
    if not wanted and not stills:
        return 0, 0
    frames = lost = 0
    until = contextlib.suppress(KeyboardInterrupt) if video.endless else contextlib.nullcontext()
    with contextlib.ExitStack() as stack, until:
        files = {kind: stack.enter_context(VideoFile(path, video.rate)) for kind, path in wanted.items()}
        writing = stack.enter_context(Writing())
        reading = stack.enter_context(Reading(video, drop=video.endless))
        for image, dropped in tqdm(reading, "predicting", video.length, unit="frame", disable=None):
            ids, probabilities = _predicted(predictor, image, stills)
            how = {"kinds": stills, "probabilities": probabilities}
            writing.later(outputs.save, folder, f"{name}/{frames:06d}", image, ids, predictor.table, **how)
            for kind, file in files.items():
                writing.later(_add_frame, file, kind, image, ids, predictor, repeats=dropped)
            frames, lost = frames + 1, lost + dropped
    return frames, lost


def _predicted(
    predictor: Predictor, image: np.ndarray, kinds: Collection[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Class ids, and probabilities where they are wanted."""
    if "probabilities" not in kinds:
        return predictor.predict(image), None
    probabilities = predictor.probabilities(image)
    return probabilities.argmax(0).astype(id_type(len(probabilities))), probabilities


def _add_frame(
    file: VideoFile, kind: str, image: np.ndarray, ids: np.ndarray, predictor: Predictor, *, repeats: int
) -> None:
    for _ in range(repeats):
        file.repeat()
    file.add(_frame(kind, image, ids, predictor))


def _frame(kind: str, image: np.ndarray, ids: np.ndarray, predictor: Predictor) -> np.ndarray:
    table = predictor.table
    if kind == "colours":
        return colourise(ids, table.colours)
    return with_legend_strip(image, ids, table.names, table.colours)
