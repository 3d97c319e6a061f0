"""Data sets of image and mask files: match names, read samples, cache decoded files."""

from __future__ import annotations

import difflib
import functools
import hashlib
import logging
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np

from segkit.config.values import expand_home
from segkit.data import filename_hints
from segkit.data.label_map import DataError, LabelMap, Problem, load_builtin_label_map
from segkit.data.listing import walk_files
from segkit.data.reading import IMAGE_SUFFIXES, MASK_SUFFIXES, Coding, read_image, read_mask
from segkit.runtime import files
from segkit.runtime.commands import cli_command
from segkit.runtime.text import format_count
from segkit.types import PHOTOGRAPHS, Bands, Sample

OnError = Literal["stop", "skip"]
Cache = Literal["none", "disk"]

log = logging.getLogger("segkit")


class Pair(NamedTuple):
    """Image file, mask file, and their common name."""

    image: Path
    label: Path
    name: str
    table: LabelMap | None = None  # of the mask; None: that of the data set


MatchedFiles = tuple[list[Pair], list[Problem]]


class Pairs:
    """Data set of image and mask files.

    Args:
        name: of the data set, for messages.
        table: label map of pairs without their own.
        matched: result of ``match_files``: pairs, and problems of files without partner.
        coding: content of the masks.
        on_error: ``skip`` leaves out files without partner, with a warning, and lets the loader replace
            unreadable samples; ``stop`` raises.
        cache: folder of decoded copies.
        bands: of the images to read, and their value range.
        arguments: of ``verify`` on the command line for the same files, for messages.

    Raises:
        ValueError: there is no pair, or, with ``stop``, a file has no partner.
    """

    def __init__(
        self,
        name: str,
        table: LabelMap,
        matched: MatchedFiles,
        *,
        coding: Coding = "ids",
        on_error: OnError = "stop",
        cache: Path | None = None,
        bands: Bands = PHOTOGRAPHS,
        arguments: Sequence[str] = (),
    ):
        self.verify_command = shlex.join([*cli_command("data", name).split(), "verify", *arguments])
        self.name, self.table, self.cache = name, table, cache
        self.coding: Coding = coding
        self.bands = bands
        self.on_error: OnError = on_error
        self.pairs, self.problems = matched
        self.names = [pair.name for pair in self.pairs]
        self.excluded: list[str] = []  # names that ``exclude_listed`` left out
        if self.problems:
            number = format_count(len(self.problems), "file")
            message = f"{number} of {name} cannot be used, the first: {self.problems[0]}"
            if on_error == "stop":
                raise ValueError(
                    f"{message}. List all with `{self.verify_command}`, or leave them out with "
                    "data.on_error=skip"
                )
            log.warning("data.on_error=skip: %s", message)
        if not self.pairs:
            raise ValueError(
                f"{name}: no image/mask pairs found. `{cli_command('data', name)} --help` shows the layout"
            )

    def __len__(self) -> int:
        return len(self.pairs)

    def exclude_listed(self, file: str | None) -> Self:
        """Leave out the samples that ``data.exclude`` lists, if it is set, and return the data set."""
        if file is None:
            return self
        self.excluded = read_exclude_list(file, self.names)
        listed = set(self.excluded)
        self.pairs = [pair for pair in self.pairs if pair.name not in listed]
        self.names = [pair.name for pair in self.pairs]
        if not self.pairs:
            raise ValueError(f"data.exclude={file}: leaves out all {len(listed)} training images")
        return self

    def read(self, index: int) -> Sample:
        """Return a sample as stored, its label in class ids.

        Raises:
            DataError: a file is missing, damaged, of the wrong kind, or holds values outside the table.
        """
        try:
            return self._read(self.pairs[index])
        except DataError as error:
            kind, file, text, remedy = error.problem
            more = f"`{self.verify_command}` lists all such files"
            raise DataError(kind, file, text, "; ".join(filter(None, (remedy, more)))) from error

    def _read(self, pair: Pair) -> Sample:
        if self.cache is None:
            image, label = read_image(pair.image, self.bands), self._read_label(pair)
        else:
            salt = repr((self.bands.chosen, self.bands.fill, self.bands.is_photograph))
            image = load_cached(pair.image, self.cache, salt, lambda: read_image(pair.image, self.bands))
            salt = repr(pair.table or self.table)
            label = load_cached(pair.label, self.cache, salt, lambda: self._read_label(pair))
        if image.shape[:2] != label.shape:
            raise DataError("sizes differ", pair.label, size_mismatch_message(image, label), "")
        return Sample(image, label, pair.name, self.bands)

    def read_label(self, index: int) -> np.ndarray:
        """Return the class ids (H, W) of a mask, without its image; raise as ``read``."""
        return self._read_label(self.pairs[index])

    def read_image(self, index: int) -> np.ndarray:
        """Return an image (H, W, C) without its mask, as ``reading.read_image`` does."""
        return read_image(self.pairs[index].image, self.bands)

    def encode(self, raw: np.ndarray, pair: Pair) -> np.ndarray:
        """Return the class ids (H, W) of the mask of a pair as stored."""
        return (pair.table or self.table).encode(raw, pair.label)

    def _read_label(self, pair: Pair) -> np.ndarray:
        return self.encode(read_mask(pair.label, self.coding), pair)


def build_pairs(
    name: str,
    folders: tuple[str, str],
    split: str,
    *,
    root: str,
    on_error: OnError,
    cache: Cache,
    prepare: str,
    ends: tuple[str, str] = ("", ""),
) -> Pairs:
    """Return a split of a published data set, whose label map is built in.

    Args:
        name: of the data set.
        folders: of the images and of the masks, below the root.
        split: subfolder of both.
        root: of the data set.
        on_error: as in ``Pairs``.
        cache: ``disk`` stores decoded copies.
        prepare: what the command of that name does, for the message about missing folders.
        ends: of the names of images and masks, before the suffix.
    """
    images, masks = (f"{folder}/{split}" for folder in folders)
    path = check_folders(root, (images, masks), f"`{cli_command('data', name)} prepare` {prepare}")
    found = match_files(path / images, path / masks, image_end=ends[0], mask_end=ends[1])
    folder = cache_folder(cache, path)
    arguments = dataset_cli_args(root)
    return Pairs(
        name, load_builtin_label_map(name), found, on_error=on_error, cache=folder, arguments=arguments
    )


def read_exclude_list(file: str, names: Sequence[str]) -> list[str]:
    """Return the names that ``data.exclude`` lists, one per line; lines that start with # are skipped."""
    path = Path(expand_home(file))
    if not path.is_file():
        raise ValueError(f"data.exclude={file}: there is no such file. It lists names of training images")
    known, listed = set(names), []
    for number, line in enumerate(files.read_text(path).splitlines(), start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if name not in known:
            near = difflib.get_close_matches(name, names, n=1) or names[:1]
            raise ValueError(
                f"{path}, line {number}: {name} is not a training image. A name is, for example, {near[0]}"
            )
        listed.append(name)
    return list(dict.fromkeys(listed))


def match_files(images: Path, masks: Path, *, image_end: str = "", mask_end: str = "") -> MatchedFiles:
    """Pair the files of two trees by relative path, without suffix and without the given ends of the stem."""
    left, problems = _index_files(images, image_end, IMAGE_SUFFIXES)
    right, more = _index_files(masks, mask_end, MASK_SUFFIXES)
    pairs = [Pair(left[name], right[name], name) for name in sorted(left.keys() & right.keys())]
    images_alone = {name: file for name, file in left.items() if name not in right}
    masks_alone = {name: file for name, file in right.items() if name not in left}
    hints = filename_hints.find_filename_hints(list(images_alone), masks_alone, "mask")
    if images_alone:
        lossy, _ = _index_files(masks, mask_end, tuple({*IMAGE_SUFFIXES} - {*MASK_SUFFIXES}))
        wrong = {name: filename_hints.wrong_format_hint(file) for name, file in lossy.items()}
        hints = wrong | hints
    problems += _missing_partners(images_alone, "mask", mask_end, hints)
    hints = filename_hints.find_filename_hints(list(masks_alone), images_alone, "image")
    problems += _missing_partners(masks_alone, "image", image_end, hints)
    return pairs, problems + more


def _missing_partners(
    alone: Mapping[str, Path], partner: str, end: str, hints: Mapping[str, filename_hints.Hint]
) -> list[Problem]:
    problems = []
    for name, file in sorted(alone.items()):
        text, remedy = f"there is no {partner} {name}{end}", ""
        if name in hints:
            text, remedy = f"{text}; {hints[name].text}", hints[name].remedy
        problems.append(Problem("missing partner", str(file), text, remedy))
    return problems


def check_folders(root: str, folders: Iterable[str], remedy: str) -> Path:
    """Return the root as a path; if a folder below it is missing, a ``ValueError`` has the remedy."""
    path = Path(root).expanduser()
    missing = [folder for folder in folders if not path.joinpath(folder).is_dir()]
    if missing:
        raise ValueError(
            f"data.root={root}: there is no folder {' and no '.join(missing)} in {path.absolute()}. {remedy}"
        )
    return path


def dataset_cli_args(root: str | list[str], **settings: str) -> list[str]:
    """Return the arguments of ``segkit-data`` for a root and other data settings."""
    if isinstance(root, str):
        place = ["--root", root]
    else:
        place = [f"data.root=[{','.join(root)}]"]
    return [*place, *(f"data.{key}={value}" for key, value in settings.items())]


def size_mismatch_message(image: np.ndarray, label: np.ndarray) -> str:
    """Return the message for a mask whose size differs from its image."""
    (rows, columns), (height, width) = label.shape[:2], image.shape[:2]
    return f"the mask is {columns}x{rows}, its image {width}x{height} (after applying the EXIF orientation)"


def cache_folder(cache: Cache, root: Path) -> Path | None:
    """Create and return the folder of decoded copies, in ``$SEGKIT_CACHE`` or the root; None if unused."""
    if cache == "none":
        return None
    folder = Path(expand_home(os.environ.get("SEGKIT_CACHE") or str(root / ".segkit-cache")), "decoded")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # warn once here, not in every worker
        _warn_cache_not_writable(folder, error.strerror or str(error))
        return None
    return folder


def load_cached(source: Path, folder: Path, salt: str, read: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the result of ``read()``, from a copy in ``folder`` if the source has not changed since.

    The copy is memory-mapped, so unused pixels are not loaded. Several processes may write to the folder. If
    it cannot be written, nothing is stored, with one warning.
    """
    try:
        stat = source.stat()
    except FileNotFoundError:
        return read()  # raises the error
    key = hashlib.sha256(f"{source.absolute()}\n{salt}".encode()).hexdigest()[:32]
    copy = folder / key[:2] / f"{key}-{stat.st_size:x}-{stat.st_mtime_ns:x}.npy"
    if not copy.exists():
        array = read()
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            for stale in copy.parent.glob(f"{key}-*.npy"):
                if stale != copy:  # another process may have written it meanwhile
                    stale.unlink(missing_ok=True)
            with files.atomic_write(copy) as file:
                np.save(file, array)
        except OSError as error:
            _warn_cache_not_writable(folder, error.strerror or str(error))
            return array
    try:
        return np.asarray(np.load(copy, mmap_mode="c"))  # objects, which could run code, are refused
    except (ValueError, EOFError):
        log.warning("%s: replacing the damaged copy of %s", copy, source)
        copy.unlink()
        return load_cached(source, folder, salt, read)


@functools.cache
def _warn_cache_not_writable(folder: Path, error: str) -> None:
    log.warning(
        "data.cache=disk: cannot write to %s (%s), so files are decoded each time. Set SEGKIT_CACHE to a "
        "writable folder",
        folder,
        error,
    )


def _index_files(folder: Path, end: str, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], list[Problem]]:
    """Return files by relative path without suffix and ``end``, and those that share such a name."""
    listed: dict[str, Path] = {}
    problems = []
    for file in walk_files(folder):
        stem, suffix = os.path.splitext(file.name)  # noqa: PTH122  (a Path per file would cost seconds)
        if suffix.lower() not in suffixes or not stem.endswith(end):
            continue
        key = file.parent.relative_to(folder).joinpath(stem[: len(stem) - len(end)]).as_posix()
        if key in listed:
            problems.append(Problem("duplicate stems", str(file), f"{listed[key].name} has the same stem"))
        else:
            listed[key] = file
    return listed, problems
