"""Annotations of label tools become a folder to train on: images, masks, class table, and a report."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from segkit.data.importing import annotations
from segkit.data.importing.annotations import Annotated, Annotations
from segkit.data.importing.painting import BACKGROUND, paint, unscored
from segkit.data.importing.via import read_via
from segkit.data.labels import Entry, LabelTable, automatic_colour, hex_colour
from segkit.data.reading import IMAGES
from segkit.drawing import overlays
from segkit.system import files
from segkit.types import MOST_CLASSES

READERS: dict[str, Callable[[Sequence[Path], str | None], Annotations]] = {
    "coco": annotations.coco,
    "labelme": annotations.labelme,
    "cvat": annotations.cvat,
    "via": read_via,
}


@dataclass
class Report:
    """What an import did; ``to_plain`` is ``import.json``."""

    labels: list[str]
    images: int = 0
    things: Counter[str] = field(default_factory=Counter)
    pixels: Counter[str] = field(default_factory=Counter)
    hidden: Counter[tuple[str, str]] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    holes: int = 0
    crowds: int = 0
    without_labels: list[str] = field(default_factory=list)
    not_there: list[str] = field(default_factory=list)
    other_size: list[str] = field(default_factory=list)
    not_named: list[str] = field(default_factory=list)

    def to_plain(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            **vars(self),
            "hidden": [{"on_top": a, "below": b, "pixels": n} for (a, b), n in self.hidden.most_common()],
        }

    def lines(self) -> list[str]:
        """For people; nothing is said of what did not happen."""
        total = max(1, sum(self.pixels.values()))
        lines = [f"{self.images} images with masks"]
        for label in self.labels:
            share = self.pixels[label] / total
            lines.append(f"{label:>24}: {self.things[label]} objects, {share:.3%} of the pixels")
        for (top, below), pixels in self.hidden.most_common(6):
            lines.append(f"overlaps: {top} lies on {below} ({pixels} pixels)")
        if self.crowds:
            lines.append(f"crowds: {self.crowds} are not scored, but for what lies on them")
        if self.holes:
            lines.append(f"holes: {self.holes} in masks stay open")
        lines += [
            f"outside: {count} objects {how} outside their image" for how, count in self.outside.items()
        ]
        lines += [f"left out: {count} {kind}, which have no area" for kind, count in self.left_out.items()]
        for title, names in (
            ("no labels", self.without_labels),
            ("not there, left out", self.not_there),
            ("of another size than the annotations say, left out", self.other_size),
            ("in the folder, but not in the annotations", self.not_named),
        ):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                lines.append(f"{title}: {len(names)} images ({', '.join(names[:3])}{more})")
        return lines


class Import(NamedTuple):
    """What to import, and how."""

    kind: str  # of READERS
    files: Sequence[Path]
    images: Path  # where they lie
    root: Path  # what is written
    split: str = ""  # a folder below images/ and masks/
    classes: Sequence[str] = ()  # labels to keep, in this order; none: all
    empty: str = "background"  # what an image without labels is: background, or left-out
    attribute: str | None = None  # of VIA

    def run(self) -> Report:
        """Write masks, images, ``classes.csv`` and ``import.json``.

        Raises:
            ValueError: a file is not of its kind, a label is not there, or the folder holds other classes.
        """
        found = READERS[self.kind](self.files, self.attribute)
        if not found.images:
            raise ValueError(f"{self.files[0]}: not one image is in it")
        labels = self._labels(found)
        table = table_of(labels, found.labels)
        self._write_table(table)
        report, ids = Report(labels), {label: 1 + number for number, label in enumerate(labels)}
        there = listing(self.images)
        _refuse_same_masks(found.images)
        for image in found.images:
            self._write(image, ids, there.get(_key(image.name)), report)
        named = {_key(image.name) for image in found.images}
        report.not_named = [
            str(file.relative_to(self.images)) for key, file in there.items() if key not in named
        ]
        if not report.images:
            raise ValueError(
                f"--images {self.images}: not one of the {len(found.images)} images that {self.files[0]} "
                f"names is there, such as {found.images[0].name}"
            )
        return report

    def _labels(self, found: Annotations) -> list[str]:
        labels = list(self.classes or found.labels)
        if unknown := [label for label in labels if label not in found.labels]:
            raise ValueError(f"--classes {','.join(unknown)}: there are {', '.join(found.labels)}")
        if not 1 <= len(labels) < MOST_CLASSES:
            raise ValueError(
                f"{self.files[0]}: {len(labels)} classes; 1 to {MOST_CLASSES - 1} are possible beside the "
                "background: choose with --classes NAME,NAME"
            )
        return labels

    def _write_table(self, table: LabelTable) -> None:
        file = self.root / "classes.csv"
        if file.exists():
            before = LabelTable.read(file, "folder")
            if [(e.id, e.name) for e in before.entries] != [(e.id, e.name) for e in table.entries]:
                raise ValueError(
                    f"{file} holds other classes ({', '.join(before.names)}); say the same with "
                    "--classes, or another --root"
                )
            return
        self.root.mkdir(parents=True, exist_ok=True)
        with files.whole(file) as target:
            target.write(csv_of(table).encode())

    def _write(self, image: Annotated, ids: dict[str, int], file: Path | None, report: Report) -> None:
        report.left_out += image.left_out
        if file is None:
            report.not_there.append(image.name)
            return
        stored = size_of(file)
        if image.size not in (None, stored):
            report.other_size.append(image.name)
            return
        image.size = stored
        if not image.things:
            report.without_labels.append(image.name)
            if self.empty != "background":
                return
        done = paint(image, ids)
        below = PurePosixPath(self.split) / file.relative_to(self.images).as_posix()
        overlays.save(self.root / "masks" / below.with_suffix(".png"), done.mask)
        place(file, self.root / "images" / below)
        left = unscored(len(ids) + 1)
        counts = np.bincount(done.mask.ravel(), minlength=left + 1)
        report.pixels.update({"background": int(counts[BACKGROUND]), "not scored": int(counts[left])})
        report.pixels.update({label: int(counts[number]) for label, number in ids.items()})
        report.things.update(thing.label for thing in image.things if not thing.crowd)
        report.left_out.update(f"of {t.label}" for t in image.things if t.label not in ids)
        report.images += 1
        report.hidden += done.hidden
        report.outside += done.outside
        report.holes += done.holes
        report.crowds += done.crowds


def _key(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(
            f"the image {name} lies outside the folder of images; annotations name it relative to that"
        )
    return path.as_posix()


def _refuse_same_masks(images: Sequence[Annotated]) -> None:
    stems = Counter(PurePosixPath(_key(image.name)).with_suffix("").as_posix() for image in images)
    if twice := [stem for stem, count in stems.items() if count > 1]:
        raise ValueError(f"{len(twice)} masks would have one name, such as {twice[0]}.png: rename the images")


def listing(folder: Path) -> dict[str, Path]:
    """Images below a folder by their relative path."""
    found = (file for file in sorted(folder.rglob("*")) if file.suffix.lower() in IMAGES and file.is_file())
    return {file.relative_to(folder).as_posix(): file for file in found}


def size_of(file: Path) -> tuple[int, int]:
    """Height and width as one looks at an image, from its header.

    Raises:
        ValueError: it is not an image.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            width, height = image.size
            across = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: not an image ({error})") from error
    return (width, height) if across else (height, width)


def place(file: Path, target: Path) -> None:
    """The same file at another place: nothing to do, a link, or a copy."""
    if target.exists() and target.samefile(file):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(file.resolve(), target)
    except OSError:
        shutil.copyfile(file, target)


def table_of(labels: Sequence[str], colours: dict[str, str]) -> LabelTable:
    """Background, the labels, and what is not scored."""
    entries = [Entry(BACKGROUND, "background", (0, 0, 0))]
    for number, label in enumerate(labels, 1):
        stored = colours.get(label, "").lstrip("#")
        try:
            red, green, blue = bytes.fromhex(stored)
        except ValueError:
            red, green, blue = automatic_colour(number)
        entries.append(Entry(number, label, (red, green, blue)))
    entries.append(Entry(unscored(len(labels) + 1), "not scored", (255, 255, 255), ignore=True))
    return LabelTable("folder", tuple(entries))


def csv_of(table: LabelTable) -> str:
    """A table as ``LabelTable.read`` reads it."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "name", "colour", "ignore"])
    rows = ([e.id, e.name, hex_colour(e.colour), "yes" if e.ignore else ""] for e in table.entries)
    writer.writerows(rows)
    return text.getvalue()
