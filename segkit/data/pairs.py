"""Images and masks that lie in files: finding partners, and keeping decoded copies."""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from segkit.data import misses
from segkit.data.labels import DataError, LabelTable, Problem
from segkit.data.reading import IMAGES, MASKS, Coding, read_image, read_mask
from segkit.settings.values import expand_home
from segkit.system import files
from segkit.system.commands import spoken
from segkit.types import PHOTOGRAPHS, Bands, Sample

OnError = Literal["stop", "skip"]
Cache = Literal["none", "disk"]

log = logging.getLogger("segkit")


class Pair(NamedTuple):
    """An image, its mask, and the name of both."""

    image: Path
    label: Path
    name: str


Found = tuple[list[Pair], list[Problem]]


class Pairs:
    """A data set of image and mask files.

    Args:
        name: of the data set, for messages.
        table: applied to every mask on reading.
        found: pairs, and files that have no partner, as ``match`` returns them.
        coding: what the masks hold.
        on_error: ``skip`` leaves files without partner out, with a warning, and lets the loader replace
            samples that cannot be read; ``stop`` raises.
        cache: ``None``, or the folder that decoded copies are kept in.
        bands: which of the images' bands are read, and what their values mean.
        where: the words that let ``verify`` find the same files, for messages.

    Raises:
        ValueError: there is no pair, or, with ``stop``, a file has no partner.
    """

    def __init__(
        self,
        name: str,
        table: LabelTable,
        found: Found,
        *,
        coding: Coding = "ids",
        on_error: OnError = "stop",
        cache: Path | None = None,
        bands: Bands = PHOTOGRAPHS,
        where: Sequence[str] = (),
    ):
        check = shlex.join([*spoken("data", name).split(), "verify", *where])
        self.name, self.table, self.cache = name, replace(table, check=check), cache
        self.coding: Coding = coding
        self.bands = bands
        self.on_error: OnError = on_error
        self.pairs, self.problems = found
        self.names = [pair.name for pair in self.pairs]
        if self.problems:
            message = (
                f"{len(self.problems)} files of {name} cannot be used, the first: {self.problems[0]}; "
                f"run `{check}` to list them all"
            )
            if on_error == "stop":
                raise ValueError(f"{message}, or leave them out with data.on_error=skip")
            log.warning("%s; they are left out", message)
        if not self.pairs:
            raise ValueError(
                f"{name} has not one image with its mask here; see `{spoken('data', name)} --help`"
            )

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> Sample:
        """One sample as stored, its label in class ids.

        Raises:
            DataError: a file is missing, damaged, of the wrong kind, or holds values outside the table.
        """
        pair = self.pairs[index]
        if self.cache is None:
            image, label = self.read_image(pair), self._read_label(pair.label)
        else:
            salt = "" if self.bands.photographs else repr((self.bands.chosen, self.bands.fill))
            image = kept(pair.image, self.cache, salt, lambda: self.read_image(pair))
            label = kept(pair.label, self.cache, repr(self.table), lambda: self._read_label(pair.label))
        if image.shape[:2] != label.shape:
            raise DataError("sizes differ", pair.label, sizes_differ(image, label), "they must be equal")
        return Sample(image, label, pair.name, self.bands)

    def read_image(self, pair: Pair) -> np.ndarray:
        """The image of a pair, (H, W, C), as ``reading.read_image`` has it."""
        return read_image(pair.image, self.bands)

    def _read_label(self, file: Path) -> np.ndarray:
        return self.table.encode(read_mask(file, self.coding), file)


def match(images: Path, masks: Path, *, image_end: str = "", mask_end: str = "") -> Found:
    """Pair the files of two trees by relative path, without suffix and without the given ends of the stem."""
    left, problems = _listing(images, image_end, IMAGES)
    right, more = _listing(masks, mask_end, MASKS)
    pairs = [Pair(left[name], right[name], name) for name in sorted(left.keys() & right.keys())]
    images_alone = {name: file for name, file in left.items() if name not in right}
    masks_alone = {name: file for name, file in right.items() if name not in left}
    if images_alone:  # what lies in the place of their masks
        lossy, _ = _listing(masks, mask_end, tuple({*IMAGES} - {*MASKS}))
        wrong = {name: misses.of_another_kind(lossy[name]) for name in images_alone if name in lossy}
        near = wrong | misses.misses_of(list(images_alone), masks_alone, "mask")
        problems += [
            _alone(images_alone[name], f"mask {name}{mask_end}", near.get(name))
            for name in sorted(images_alone)
        ]
    near = misses.misses_of(list(masks_alone), images_alone, "image")
    problems += [
        _alone(masks_alone[name], f"image {name}{image_end}", near.get(name)) for name in sorted(masks_alone)
    ]
    return pairs, problems + more


def _alone(file: Path, partner: str, near: misses.Miss | None) -> Problem:
    text = f"there is no {partner}"
    return Problem(
        "missing partner", str(file), *((f"{text}; {near.text}", near.remedy) if near else (text,))
    )


def require(root: str, folders: Iterable[str], remedy: str) -> Path:
    """The root as a path, when the folders are below it.

    Raises:
        ValueError: one is missing; the message says what was looked for and what prepares it.
    """
    path = Path(root).expanduser()
    missing = [folder for folder in folders if not path.joinpath(folder).is_dir()]
    if missing:
        raise ValueError(
            f"data.root={root}: there is no folder {' and no '.join(missing)} in {path.absolute()}; {remedy}"
        )
    return path


def where(root: str | list[str], **settings: str) -> list[str]:
    """The words of a command line that name the same root and splits."""
    place = ["--root", root] if isinstance(root, str) else [f"data.root=[{','.join(root)}]"]
    return [*place, *(f"data.{key}={value}" for key, value in settings.items())]


def warn_of_same(train_split: str, val_split: str, split: str) -> None:
    """Tell, where validation data are read, that they are those of training."""
    if split == "val" and train_split == val_split:
        log.warning(
            "data.val_split=%s is also data.train_split: scores will be of images trained on", val_split
        )


def sizes_differ(image: np.ndarray, label: np.ndarray) -> str:
    """What is wrong with a mask of another size than its image."""
    (rows, columns), (height, width) = label.shape[:2], image.shape[:2]
    return f"the mask is {columns}x{rows}, its image {width}x{height} (turned as its EXIF orientation says)"


def cache_folder(cache: Cache, root: Path) -> Path | None:
    """Where decoded copies are kept: below ``$SEGKIT_CACHE``, or ``.segkit-cache`` in the root."""
    if cache == "none":
        return None
    return Path(expand_home(os.environ.get("SEGKIT_CACHE") or str(root / ".segkit-cache")), "decoded")


def kept(source: Path, folder: Path, salt: str, read: Callable[[], np.ndarray]) -> np.ndarray:
    """What ``read`` returns, from a copy in ``folder`` if the source has not changed since it was made.

    The copy is memory-mapped, so pixels that are never used are never loaded. Any number of processes may
    fill the folder at once: a copy is written aside and renamed, so it is there whole or not at all.
    """
    try:
        stat = source.stat()
    except FileNotFoundError:
        return read()  # says what is missing
    key = hashlib.sha256(f"{source.absolute()}\n{salt}".encode()).hexdigest()[:32]
    copy = folder / key[:2] / f"{key}-{stat.st_size:x}-{stat.st_mtime_ns:x}.npy"
    if not copy.exists():
        array = read()
        copy.parent.mkdir(parents=True, exist_ok=True)
        for stale in copy.parent.glob(f"{key}-*.npy"):
            if stale != copy:  # which another process may have put there meanwhile
                stale.unlink(missing_ok=True)
        with files.whole(copy) as file:
            np.save(file, array)
    try:
        return np.asarray(np.load(copy, mmap_mode="c"))  # objects, which could run code, are refused
    except (ValueError, EOFError):
        log.warning("%s: a damaged copy of %s; making it anew", copy, source)
        copy.unlink()
        return kept(source, folder, salt, read)


def _listing(folder: Path, end: str, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], list[Problem]]:
    """Files by relative path without suffix and ``end``, but for hidden ones; and those that share a name."""
    listed: dict[str, Path] = {}
    problems = []
    for place, below, names in os.walk(folder, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            stem, suffix = os.path.splitext(name)  # noqa: PTH122  (a Path per file would cost seconds)
            if name.startswith(".") or suffix.lower() not in suffixes or not stem.endswith(end):
                continue
            file = Path(place, name)
            key = file.parent.relative_to(folder).joinpath(stem[: len(stem) - len(end)]).as_posix()
            if key in listed:
                problems.append(
                    Problem("duplicate stems", str(file), f"{listed[key].name} has the same stem")
                )
            else:
                listed[key] = file
    return listed, problems
