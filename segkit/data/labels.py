"""Label tables: which value in a mask file is which class, with name and colour, applied once, on reading."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from segkit import components
from segkit.system.commands import spoken
from segkit.types import MOST_CLASSES, id_type, ignore_index

TABLES = Path(__file__).parent / "tables"


class Problem(NamedTuple):
    """Something wrong with a file of a data set."""

    kind: str  # in two or three words
    file: str
    text: str  # what is wrong
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.text}" + (f"; {self.remedy}" if self.remedy else "")


class DataError(ValueError):
    """A problem that was met while reading."""

    def __init__(self, kind: str, file: object, text: str, remedy: str):
        self.problem = Problem(kind, str(file), text, remedy)
        super().__init__(str(self.problem))


class Entry(NamedTuple):
    """One row of a table: a value that masks may hold."""

    id: int
    name: str
    colour: tuple[int, int, int]
    ignore: bool = False
    category: str = ""


@dataclass(frozen=True)
class LabelTable:
    """Raw ids and colours on one side; class ids 0..K-1 on the other: entries not ignored, in table order."""

    name: str  # of the data set
    entries: tuple[Entry, ...]
    check: str = field(default="", compare=False, repr=False)  # the command that verifies it, for messages

    @cached_property
    def classes(self) -> tuple[Entry, ...]:
        """The entries that are classes; position is class id."""
        return tuple(entry for entry in self.entries if not entry.ignore)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @cached_property
    def names(self) -> list[str]:
        """K names, each once: of two classes of one name the later carries its id."""
        seen: dict[str, Entry] = {}
        return [e.name if seen.setdefault(e.name, e) is e else f"{e.name} ({e.id})" for e in self.classes]

    @cached_property
    def colours(self) -> np.ndarray:
        """(K, 3) uint8, RGB."""
        return np.array([entry.colour for entry in self.classes], np.uint8)

    @property
    def categories(self) -> list[str]:
        """K names of groups of classes; empty strings where the table has none."""
        return [entry.category for entry in self.classes]

    @cached_property
    def _from_id(self) -> np.ndarray:
        """(65536,) int16: class id of each raw id, -1 where there is none."""
        lookup = np.full(1 << 16, -1, np.int16)
        lookup[[e.id for e in self.entries if e.id >= 0]] = [i for e, i in self._class_ids() if e.id >= 0]
        return lookup

    @cached_property
    def _from_colour(self) -> np.ndarray:
        """(2^24,) uint16: class id + 1 of each colour, 0 where there is none; untouched pages are free."""
        lookup, owner = np.zeros(1 << 24, np.uint16), {}
        for entry, class_id in self._class_ids():
            if owner.setdefault(entry.colour, (entry, class_id))[1] != class_id:
                raise ValueError(
                    f"the table of {self.name} gives {hex_colour(entry.colour)} to both "
                    f"{owner[entry.colour][0].name!r} and {entry.name!r}; they need one colour each class"
                )
            lookup[_packed(np.array(entry.colour))] = class_id + 1
        return lookup

    def _class_ids(self) -> list[tuple[Entry, int]]:
        position, unscored = {e.id: i for i, e in enumerate(self.classes)}, ignore_index(self.num_classes)
        return [(entry, position.get(entry.id, unscored)) for entry in self.entries]

    def encode(self, raw: np.ndarray, file: object) -> np.ndarray:
        """Class ids of a mask as stored.

        Args:
            raw: (H, W) uint8 or uint16 ids, or (H, W, 3) uint8 RGB colours.
            file: for the message.

        Returns:
            (H, W) class ids, ``ignore_index(K)`` where the table says so.

        Raises:
            DataError: a value is not in the table.
        """
        kind = id_type(self.num_classes)
        if raw.ndim == 3:
            ids = self._from_colour.take(_packed(raw))
            if (unknown := ids == 0).any():
                raise self._outside(raw[unknown], file)
            return (ids - 1).astype(kind)
        if raw.dtype == np.uint8:
            known = self._from_id[:256]
            if cv2.LUT(raw, (known < 0).astype(np.uint8)).any():
                raise self._outside(raw[known[raw] < 0], file)
            return cv2.LUT(raw, known.astype(kind))
        ids = self._from_id.take(raw)
        if (unknown := ids < 0).any():
            raise self._outside(raw[unknown], file)
        return ids.astype(kind)

    def _outside(self, values: np.ndarray, file: object) -> DataError:
        """What to say of the values (N,) or colours (N, 3) that the table does not have."""
        distinct, counts = np.unique(values, axis=0, return_counts=True)
        words = [
            f"{hex_colour(v) if v.ndim else v} ({n} pixels)"
            for v, n in zip(distinct[:8], counts, strict=False)
        ]
        more = f" and {len(distinct) - 8} more" if len(distinct) > 8 else ""
        ids = [entry.id for entry in self.entries]
        return DataError(
            "values outside the table",
            file,
            f"{', '.join(words)}{more} not in the table of {self.name} (ids {min(ids)}..{max(ids)})",
            f"run `{self.check or spoken('data', self.name) + ' verify'}` to list every such file, then "
            "repair it or add the value to the table (with `ignore` if it is not to be scored)",
        )

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Raw ids of class ids, as benchmark servers want them; ignored pixels get the first ignored id."""
        unscored = ignore_index(self.num_classes)
        lookup = np.full(unscored + 1, next((e.id for e in self.entries if e.ignore), unscored), np.uint16)
        lookup[: self.num_classes] = [entry.id for entry in self.classes]
        return lookup.astype(np.uint8 if lookup.max() < 256 else np.uint16)[ids]

    def to_plain(self) -> dict[str, Any]:
        """Strings, numbers and lists only, for a checkpoint."""
        return {
            "name": self.name,
            "entries": [[*entry[:2], list(entry.colour), *entry[3:]] for entry in self.entries],
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> LabelTable:
        """The table that ``to_plain`` wrote.

        Raises:
            ValueError: it did not write this.
        """
        try:
            name, rows = plain["name"], [_entry_of(*row) for row in plain["entries"]]
            table = cls(name, tuple(rows))
            if not isinstance(name, str) or not 1 <= table.num_classes <= MOST_CLASSES:
                raise ValueError(f"name {name!r}, {table.num_classes} classes")
            if len({row.id for row in rows}) < len(rows):
                raise ValueError("an id stands more than once")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the class table of a checkpoint is damaged: {error!r:.200}") from error
        return table

    @classmethod
    def read(cls, file: Path, name: str) -> LabelTable:
        """A table from a CSV file: columns ``id``, ``name``, optional ``colour``, ``ignore``, ``category``.

        A colour is ``#rrggbb`` or three numbers, or stands in columns ``red``, ``green``, ``blue``.

        Raises:
            ValueError: the file is not such a table; the message names the line and says what is accepted.
        """
        if not file.is_file():
            raise ValueError(f"there is no class table {file}: write one with columns id,name,colour,ignore")
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, skipinitialspace=True)
            if not {"id", "name"} <= set(reader.fieldnames or ()):
                raise ValueError(
                    f"{file}: the first line must name the columns id,name,colour,ignore; it names "
                    f"{reader.fieldnames}"
                )
            entries = tuple(_entry(row, f"{file}, line {reader.line_num}") for row in reader)
        ids = [entry.id for entry in entries]
        if repeated := sorted(i for i, count in Counter(ids).items() if count > 1):
            raise ValueError(f"{file}: ids {repeated} stand more than once; every id needs one line")
        table = cls(name, entries)
        if not 1 <= table.num_classes <= MOST_CLASSES:
            raise ValueError(
                f"{file}: {table.num_classes} classes are not ignored; there must be 1 to {MOST_CLASSES}"
            )
        return table


def _entry_of(identity: int, name: str, colour: Sequence[int], ignore: bool, category: str) -> Entry:  # noqa: FBT001
    red, green, blue = colour
    numbers = ((value, int) for value in (identity, red, green, blue))
    for value, kind in (*numbers, (name, str), (category, str), (ignore, bool)):
        if type(value) is not kind:
            raise TypeError(value)
    if not -(1 << 16) < identity < 1 << 16 or not all(0 <= value <= 255 for value in colour):
        raise ValueError(f"id {identity}, color {colour}")
    return Entry(identity, name, (red, green, blue), ignore, category)


def built_in(name: str) -> LabelTable:
    """The table of a data set that segkit knows."""
    return LabelTable.read(TABLES / f"{name}.csv", name)


def of_settings(data: Mapping[str, Any]) -> LabelTable:
    """The table that data settings mean, without looking for images where segkit knows the data set."""
    if (TABLES / f"{data['name']}.csv").is_file():
        return built_in(data["name"])
    if "classes" not in data or "root" not in data:  # of a plug-in, which alone knows
        return components.build("data.datasets", data, split="val").table
    roots = [data["root"]] if isinstance(data["root"], str) else data["root"]
    return LabelTable.read(Path(roots[0]).expanduser() / data["classes"], data["name"])


def hex_colour(colour: Any) -> str:
    """``#rrggbb``."""
    return "#" + "".join(f"{int(value):02x}" for value in colour)


def _packed(colours: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def _entry(row: dict[str, str], place: str) -> Entry:
    try:
        identity = int(row["id"])
    except (TypeError, ValueError):
        raise ValueError(f"{place}: id {row['id']!r} is not a whole number") from None
    if identity >= 1 << 16:
        raise ValueError(f"{place}: id {identity} does not fit a mask file; ids go up to 65535")
    ignore = (row.get("ignore") or "").strip().lower()
    if ignore not in ("", "0", "1", "no", "yes", "false", "true"):
        raise ValueError(f"{place}: ignore is {ignore!r}; yes, no or nothing is meant")
    name = (row["name"] or "").strip() or str(identity)
    return Entry(
        identity,
        name,
        _colour(row, identity, place),
        ignore in ("1", "yes", "true"),
        row.get("category") or "",
    )


def automatic_colour(identity: int) -> tuple[int, int, int]:
    """A hue per class, neighbours far apart (golden angle)."""
    pixel = np.array([[[int(identity * 111.246) % 180, 190, 220 - 60 * (identity % 2)]]], np.uint8)
    return tuple(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].tolist())  # type: ignore[return-value]


def _colour(row: dict[str, str], identity: int, place: str) -> tuple[int, int, int]:
    three = " ".join(row.get(key) or "" for key in ("red", "green", "blue"))
    text = row.get("colour") or row.get("color") or three
    if not text.strip():
        return automatic_colour(identity)
    if re.fullmatch(r"#?[0-9a-fA-F]{6}", text.strip()):
        return tuple(bytes.fromhex(text.strip()[-6:]))  # type: ignore[return-value]
    values = [int(value) for value in re.findall(r"\d+", text)]
    if len(values) != 3 or max(values) > 255:
        raise ValueError(f"{place}: colour {text!r} is neither #rrggbb nor three numbers 0..255")
    return values[0], values[1], values[2]
