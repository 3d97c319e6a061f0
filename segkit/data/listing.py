"""List the files below a folder, each once, with unique names."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in order of their names, without hidden ones.

    Links to folders are followed after the folders that are none, and each folder is entered once, so links
    that lead back do not repeat files.
    """
    folders, links, seen = deque([os.fspath(folder)]), deque[str](), set[tuple[int, int]]()
    while folders or links:
        place = folders.popleft() if folders else links.popleft()
        status = os.stat(place)  # noqa: PTH116  (a Path per folder and file would cost seconds)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(place) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir() and entry.is_symlink():
                    links.append(entry.path)
                elif entry.is_dir():
                    folders.append(entry.path)
                else:
                    yield Path(entry.path)


def unique_names(names: Sequence[str], files: Sequence[Path]) -> list[str]:
    """Return unique names: repeated ones get the suffix of their file, or a number."""
    counts = Counter(names)
    taken = {name for name, count in counts.items() if count == 1}
    result = []
    for name, file in zip(names, files, strict=True):
        if counts[name] > 1:
            candidate, number = f"{name}{file.suffix}", 2
            while candidate in taken:
                candidate, number = f"{name}_{number}", number + 1
            taken.add(candidate)
            name = candidate
        result.append(name)
    return result
