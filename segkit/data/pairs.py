"""Data sets of image and mask files: match names, read samples, cache decoded files."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import shlex
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from segkit.config.values import expand_home
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
        root: folder or folders of the files; decoded copies are stored in the first.
        coding: content of the masks.
        on_error: ``skip`` leaves out files without partner, with a warning, and lets the loader replace
            unreadable samples; ``stop`` raises.
        cache: ``disk`` stores decoded copies.
        exclude: file that lists samples to leave out, by name; None: none.
        bands: of the images to read, and their value range.
        settings: other settings of the files, for the suggested command line.

    Attributes:
        excluded: names that ``exclude`` left out.

    Raises:
        ValueError: there is no pair, names repeat, or, with ``stop``, a file has no partner.
    """

    def __init__(  # noqa: PLR0913 - most are settings that the data sets pass on
        self,
        name: str,
        table: LabelMap,
        matched: MatchedFiles,
        *,
        root: str | list[str],
        coding: Coding = "ids",
        on_error: OnError = "stop",
        cache: Cache = "none",
        exclude: str | None = None,
        bands: Bands = PHOTOGRAPHS,
        settings: Mapping[str, str] | None = None,
    ):
        words = [f"data.{key}={value}" for key, value in (settings or {}).items()]
        if isinstance(root, str):
            words = ["--root", root, *words]
        else:
            words = [f"data.root=[{','.join(root)}]", *words]
            root = root[0]
        self.verify_command = shlex.join([*cli_command("data", name).split(), "verify", *words])
        self.name, self.table, self.bands = name, table, bands
        self.coding: Coding = coding
        self.on_error: OnError = on_error
        self.cache = cache_folder(cache, Path(root).expanduser())
        self.pairs, self.problems = matched
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
        ((common, count),) = Counter(pair.name for pair in self.pairs).most_common(1)
        if count > 1:
            raise ValueError(f"{name}: {count} images have the name {common}. Rename all but one")
        self.excluded: list[str] = []
        if exclude is not None:
            self.excluded = read_exclude_list(exclude, [pair.name for pair in self.pairs])
            listed = set(self.excluded)
            self.pairs = [pair for pair in self.pairs if pair.name not in listed]
        self.names = [pair.name for pair in self.pairs]

    def __len__(self) -> int:
        return len(self.pairs)

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
    ends: tuple[str, str] = ("", ""),
    **settings: Any,
) -> Pairs:
    """Return a split of a published data set, whose label map is built in.

    Args:
        name: of the data set.
        folders: of the images and of the masks, below the root.
        split: subfolder of both.
        root: of the data set.
        ends: of the names of images and masks, before the suffix.
        settings: of ``Pairs``.
    """
    images, masks = (f"{folder}/{split}" for folder in folders)
    path = check_folders(root, (images, masks), f"`{cli_command('data', name)} prepare` makes them")
    found = match_files(path / images, path / masks, image_end=ends[0], mask_end=ends[1])
    return Pairs(name, load_builtin_label_map(name), found, root=root, **settings)


def read_exclude_list(file: str, names: Sequence[str]) -> list[str]:
    """Return the names that ``data.exclude`` lists, one per line; lines that start with # are skipped."""
    path = Path(expand_home(file))
    if not path.is_file():
        raise ValueError(f"data.exclude={file}: there is no such file. It lists names of training images")
    lines = dict.fromkeys(line.strip() for line in files.read_text(path).splitlines())
    listed = [name for name in lines if name and not name.startswith("#")]
    known = set(names)
    if unknown := [name for name in listed if name not in known]:
        raise ValueError(
            f"data.exclude={file}: {unknown[0]} is not a training image. A name is, for example, {names[0]}"
        )
    if len(listed) == len(names):
        raise ValueError(f"data.exclude={file}: leaves out all {len(names)} training images")
    return listed


def match_files(images: Path, masks: Path, *, image_end: str = "", mask_end: str = "") -> MatchedFiles:
    """Pair the files of two trees by relative path, without suffix and without the given ends of the stem."""
    image_files, problems = _index_files(images, image_end, IMAGE_SUFFIXES)
    mask_files, mask_problems = _index_files(masks, mask_end, MASK_SUFFIXES)
    common = sorted(image_files.keys() & mask_files.keys())
    pairs = [Pair(image_files[name], mask_files[name], name) for name in common]
    problems += _list_missing(image_files, mask_files, masks, "mask", mask_end)
    problems += _list_missing(mask_files, image_files, images, "image", image_end)
    return pairs, problems + mask_problems


def _list_missing(
    own: Mapping[str, Path], others: Mapping[str, Path], folder: Path, kind: str, end: str
) -> list[Problem]:
    """Return a problem for each file without a partner in the folder, with a hint if a name is similar."""
    alone = sorted(own.keys() - others.keys())
    if not alone:
        return []
    paired = {others[name] for name in own.keys() & others.keys()}
    stems = {file: file.relative_to(folder).with_suffix("").as_posix() for file in walk_files(folder)}
    unused = sorted((_normalize(stem), stem, file) for file, stem in stems.items() if file not in paired)
    problems = []
    for name in alone:
        text, remedy = f"there is no {kind} {name}{end}", ""
        key = _normalize(name)
        for normal, stem, file in unused[bisect_left(unused, (key,)) :]:
            if not normal.startswith(key):  # the list is sorted, so no later name does
                break
            if re.fullmatch(r"([ _.-][^/]+)?", normal.removeprefix(key)):
                suffix = stem[len(name) :] if normal != key else ""
                more, remedy = _suggest_fix(file, suffix, kind)
                text = f"{text}; {file} {more}"
                break
        problems.append(Problem("missing partner", str(own[name]), text, remedy))
    return problems


def _normalize(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _suggest_fix(file: Path, end: str, kind: str) -> tuple[str, str]:
    """Return why a file of a similar name is not the partner, and the fix."""
    if kind == "mask" and file.suffix.lower() not in MASK_SUFFIXES:
        return "is no lossless image", "save the mask again from its source as PNG"
    if end:
        return (
            f"ends in {end}",
            f"set data.{kind}s='{kind}s/*{end}' (data=folder), or give both the same name",
        )
    return "differs only in capitalization or Unicode encoding (NFC and NFD)", "rename one of them"


def check_folders(root: str, folders: Iterable[str], remedy: str) -> Path:
    """Return the root as a path; if a folder below it is missing, a ``ValueError`` has the remedy."""
    path = Path(root).expanduser()
    missing = [folder for folder in folders if not path.joinpath(folder).is_dir()]
    if missing:
        raise ValueError(
            f"data.root={root}: there is no folder {' and no '.join(missing)} in {path.absolute()}. {remedy}"
        )
    return path


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
    if not source.exists():
        return read()  # raises the error
    stat = source.stat()
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
