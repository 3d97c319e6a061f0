"""Convert the files of a label tool to images, masks, a class table and a report."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from segkit.data.label_map import Entry, LabelMap, automatic_color
from segkit.data.listing import walk_files
from segkit.data.reading import IMAGE_SUFFIXES, read_size
from segkit.runtime.text import format_count
from segkit.tools.import_labels.readers import name_errors, read_annotations
from segkit.tools.import_labels.shapes import LabeledImage, MaskIds, ignore_id, import_pycocotools, paint_mask
from segkit.visualize import overlays


@dataclass
class Report:
    """Counts of an import, as in ``import.json``."""

    labels: list[str]
    images: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    pixels: Counter[str] = field(default_factory=Counter)
    hidden: Counter[tuple[str, str]] = field(default_factory=Counter)  # pixels by (on top, below)
    skipped: Counter[str] = field(default_factory=Counter)  # shapes
    crowds: int = 0
    # names of images
    without_labels: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # in the annotations, but not in the folder
    other_size: list[str] = field(default_factory=list)  # than the annotations state
    not_labeled: list[str] = field(default_factory=list)  # in the folder, but not in the annotations

    def count_image(self, image: LabeledImage, mask: np.ndarray, ids: MaskIds) -> None:
        """Count the objects and pixels of an image."""
        self.images += 1
        names = ids.names()
        for identity, pixels in zip(*np.unique(mask, return_counts=True), strict=True):
            self.pixels[names[int(identity)]] += int(pixels)
        for shape in image.shapes:
            if shape.label in ids.labels:
                if shape.is_crowd:
                    self.crowds += 1
                else:
                    self.objects[shape.label] += 1

    def to_json(self) -> str:
        """Return the content of ``import.json``."""
        hidden = [
            {"on_top": top, "below": below, "pixels": pixels}
            for (top, below), pixels in self.hidden.most_common()
        ]
        return json.dumps(vars(self) | {"hidden": hidden}, indent=1, ensure_ascii=False)

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        total = max(1, self.pixels.total())
        lines = [f"{format_count(self.images, 'image')} with masks"]
        for label in self.labels:
            count, share = format_count(self.objects[label], "object"), self.pixels[label] / total
            lines.append(f"{label:>24}: {count}, {share:.3%} of the pixels")
        for (top, below), pixels in self.hidden.most_common(6):
            lines.append(f"overlap: {top} covers {below} ({format_count(pixels, 'pixel')})")
        if self.crowds:
            lines.append(f"crowds: {self.crowds}, not scored except where other objects cover them")
        lines += [f"skipped: {format_count(number, 'shape')} {kind}" for kind, number in self.skipped.items()]
        lists = {
            "no labels": self.without_labels,
            "missing, skipped": self.missing,
            "size differs from that in the annotations, skipped": self.other_size,
            "in the folder but not in the annotations": self.not_labeled,
        }
        for title, names in lists.items():
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                lines.append(f"{title}: {format_count(len(names), 'image')} ({', '.join(names[:3])}{more})")
        return lines


def import_labels(  # noqa: PLR0913 - one keyword for each option of the command
    kind: str,
    files: Sequence[Path],
    *,
    images: Path,
    root: Path,
    split: str = "",
    classes: Sequence[str] = (),
    empty: str = "background",
    attribute: str | None = None,
    table: LabelMap | None = None,
) -> Report:
    """Write images, masks, ``classes.csv`` and ``import.json`` for label files; on an error, nothing.

    Args:
        kind: key of ``READERS``.
        files: of the label tool.
        images: folder of the images.
        root: output folder.
        split: subfolder of images/ and masks/.
        classes: labels to keep, in this order; empty: all.
        empty: treatment of images without labels: ``background``, or ``left-out``.
        attribute: attribute of VIA regions that holds the class.
        table: class table with the ids of the labels; pixels without a shape are then not scored. None
            numbers the labels from 1 on, and the background is 0.

    Raises:
        ValueError: a file is invalid, a label does not exist, or the folder has other classes.
    """
    import_pycocotools()  # reports a missing package before anything is read
    annotations = read_annotations(kind, files, attribute)
    labels = list(classes or annotations.labels)
    if unknown := [label for label in labels if label not in annotations.labels]:
        raise ValueError(
            f"--classes {','.join(unknown)}: unknown. The labels are {', '.join(annotations.labels)}"
        )
    if not annotations.images or not labels:
        raise ValueError(f"{files[0]}: contains no labeled images")
    ids, table = _choose_ids(labels, table, annotations.labels, files[0])
    _check_classes(root / "classes.csv", table)
    sources = _find_image_files(annotations.images, images)
    report = Report(labels, missing=[image.name for image in annotations.images if image.name not in sources])
    parent = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.is_dir())
    with tempfile.TemporaryDirectory(prefix=".import-", dir=parent) as temporary:
        target = Path(temporary)
        for image in annotations.images:
            if source := sources.get(image.name):
                below = Path(split, image.name)
                _convert_image(image, source, report, target=target, below=below, ids=ids, empty=empty)
            report.skipped += image.skipped
        if not report.images:
            raise ValueError(f"--images {images}: cannot use any image of {files[0]}; {report.lines()[-1]}")
        used = {os.path.realpath(source) for source in sources.values()}
        for file in walk_files(images):
            if file.suffix.lower() in IMAGE_SUFFIXES and os.path.realpath(file) not in used:
                report.not_labeled.append(file.relative_to(images).as_posix())
        report_name = f"import-{split}.json" if split else "import.json"
        (target / report_name).write_text(report.to_json(), encoding="utf-8")
        if not (root / "classes.csv").exists():
            (target / "classes.csv").write_text(table.to_csv(), encoding="utf-8")
        for file in sorted(file for file in target.rglob("*") if file.is_file()):
            place = root / file.relative_to(target)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
    return report


def _choose_ids(
    labels: Sequence[str], table: LabelMap | None, colors: Mapping[str, str], file: Path
) -> tuple[MaskIds, LabelMap]:
    """Return the ids of the labels, and the class table that is written: the given one, or one of the labels.

    A given table gets an ignored entry if it has none: pixels without a shape are not scored.
    """
    if table is None:
        table = make_label_map(labels, colors)
        numbers = {label: number for number, label in enumerate(labels, start=1)}
        return MaskIds(numbers, background=0, void=table.entries[-1].id), table
    # reversed, so that a repeated name means its first entry
    ids = {entry.name: entry.id for entry in reversed(table.entries) if entry.id >= 0}
    ids |= {name: entry.id for name, entry in zip(table.names, table.classes, strict=True)}
    if unknown := [label for label in labels if label not in ids]:
        raise ValueError(
            f"{file}: --table has no {', '.join(unknown)}. It has {', '.join(ids)}; choose with --classes"
        )
    ignored = [entry.id for entry in table.entries if entry.ignore and entry.id >= 0]
    if not ignored:
        ignored = [ignore_id(max(ids.values()) + 1)]
        entry = Entry(ignored[0], "not scored", (255, 255, 255), ignore=True)
        table = replace(table, entries=(*table.entries, entry))
    return MaskIds({label: ids[label] for label in labels}, background=ignored[0], void=ignored[0]), table


def _check_classes(file: Path, table: LabelMap) -> None:
    if file.exists():
        before = LabelMap.read(file, "folder")
        if [(e.id, e.name) for e in before.entries] != [(e.id, e.name) for e in table.entries]:
            raise ValueError(
                f"{file} has other classes ({', '.join(before.names)}). Use the same ones with --classes, or "
                "another --root"
            )


def _find_image_files(images: Sequence[LabeledImage], folder: Path) -> dict[str, Path]:
    """Return the existing image files by name; names are made relative to the folder.

    A name that leads out of the folder is refused, and two images that would share a mask.
    """
    sources: dict[str, Path] = {}
    base = folder.resolve()
    counts = Counter(PurePosixPath(image.name).name for image in images)
    for image in images:
        file = image.file or base / image.name.replace("\\", "/")
        inside = Path(os.path.normpath(file))
        if inside.is_relative_to(base):
            image.name = inside.relative_to(base).as_posix()
        elif image.file is None:
            raise ValueError(f"image {image.name} is outside of --images {folder}")
        name = PurePosixPath(image.name).name
        if not file.is_file() and counts[name] == 1:  # the annotations may have another folder
            file = base / name
        if file.is_file():
            sources[image.name] = file
    stems = Counter(PurePosixPath(image.name).with_suffix("").as_posix() for image in images)
    if repeated := [stem for stem, number in stems.items() if number > 1]:
        raise ValueError(
            f"{format_count(len(repeated), 'mask')} would have the same name, such as {repeated[0]}.png"
        )
    return sources


def _convert_image(
    image: LabeledImage, source: Path, report: Report, *, target: Path, below: Path, ids: MaskIds, empty: str
) -> None:
    """Write an image and its mask and count them, or report why the image is left out."""
    stored = read_size(source)
    if image.size not in (None, stored):
        report.other_size.append(image.name)
        return
    image.size = stored
    if not image.shapes:
        report.without_labels.append(image.name)
        if empty == "left-out":
            return
    with name_errors(image.name, "labeled image"):
        mask, hidden = paint_mask(image, ids)
    overlays.save_image(target / "masks" / below.with_suffix(".png"), mask)
    _link_or_copy(source, target / "images" / below)
    report.count_image(image, mask, ids)
    report.hidden += hidden


def _link_or_copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file.resolve(), target)
    except OSError:
        shutil.copyfile(file, target)


def make_label_map(labels: Sequence[str], colors: Mapping[str, str]) -> LabelMap:
    """Return a label map of the background, the labels, and the id of unscored pixels."""
    entries = [Entry(0, "background", (0, 0, 0))]
    for number, label in enumerate(labels, 1):
        try:
            red, green, blue = bytes.fromhex(colors.get(label, "").lstrip("#"))
        except ValueError:
            red, green, blue = automatic_color(number)
        entries.append(Entry(number, label, (red, green, blue)))
    entries.append(Entry(ignore_id(len(labels) + 1), "not scored", (255, 255, 255), ignore=True))
    return LabelMap("folder", tuple(entries))
