"""Label maps: which value of a mask file is which class, with its name and color."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np

from segkit.config import Interval, registry
from segkit.config.values import convert
from segkit.runtime import files
from segkit.runtime.text import format_count
from segkit.types import MAX_CLASSES, class_id_dtype, ignore_index

TABLES = Path(__file__).parent / "tables"
COLUMNS = ("id", "name", "color", "ignore")
IGNORE = {"": False, "0": False, "no": False, "false": False, "1": True, "yes": True, "true": True}
Level = Annotated[int, Interval(ge=0, le=255)]


class Problem(NamedTuple):
    """Problem of a file of a data set."""

    kind: str  # short; problems are grouped by it
    file: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return "; ".join(filter(None, (f"{self.file}: {self.text}", self.remedy)))


class DataError(ValueError):
    """A file of a data set cannot be used; has the ``Problem``."""

    def __init__(self, kind: str, file: object, text: str, remedy: str):
        self.problem = Problem(kind, str(file), text, remedy)
        super().__init__(str(self.problem))


class Entry(NamedTuple):
    """One row of a class table: a value that masks may contain."""

    id: Annotated[int, Interval(ge=-(1 << 15), lt=1 << 16)]
    name: str
    color: tuple[Level, Level, Level]
    ignore: bool = False
    category: str = ""


@dataclass(frozen=True)
class LabelMap:
    """Map of the ids and colors of mask files to class ids 0..K-1.

    Class ids number the entries that are not ignored, in table order.

    Raises:
        ValueError: ids repeat, a class has a negative id, or there are no or too many classes.
    """

    name: str  # of the data set
    entries: tuple[Entry, ...]
    source: str = field(default="", compare=False, repr=False)  # the CSV file, for messages

    def __post_init__(self) -> None:
        counts = Counter(entry.id for entry in self.entries)
        if repeated := sorted(identity for identity, count in counts.items() if count > 1):
            raise ValueError(f"{self._title}: ids {repeated} are repeated; each id must have one row")
        if any(entry.id < 0 for entry in self.classes):
            raise ValueError(f"{self._title}: negative ids must be ignored; ids of classes are 0..65535")
        if not 1 <= self.num_classes <= MAX_CLASSES:
            raise ValueError(
                f"{self._title}: {self.num_classes} classes are not ignored; must be 1 to {MAX_CLASSES}"
            )

    @cached_property
    def classes(self) -> tuple[Entry, ...]:
        """The entries that are not ignored; the position is the class id."""
        return tuple(entry for entry in self.entries if not entry.ignore)

    @property
    def num_classes(self) -> int:
        """Number K of classes."""
        return len(self.classes)

    @cached_property
    def names(self) -> list[str]:
        """K unique names; a repeated name gets its id appended."""
        counts = Counter(entry.name for entry in self.classes)
        return [e.name if counts[e.name] == 1 else f"{e.name} ({e.id})" for e in self.classes]

    @cached_property
    def colors(self) -> np.ndarray:
        """Colors (K, 3), uint8 RGB."""
        return np.array([entry.color for entry in self.classes], np.uint8)

    @property
    def categories(self) -> list[str]:
        """Names of the groups of the K classes; empty strings without groups."""
        return [entry.category for entry in self.classes]

    @cached_property
    def _from_id(self) -> np.ndarray:
        """Class ids (2^16 + 2^15,), int16, of stored ids, -1 for unknown; negative ids index from the end."""
        lookup = np.full((1 << 16) + (1 << 15), -1, np.int16)
        lookup[[entry.id for entry in self.entries]] = [class_id for _, class_id in self._class_ids()]
        return lookup

    @cached_property
    def _from_color(self) -> np.ndarray:
        """Class id + 1 of each color, 0 for unknown: (2^24,) uint16; untouched pages take no memory."""
        lookup = np.zeros(1 << 24, np.uint16)
        for entry, class_id in self._class_ids():
            place = _pack_colors(np.array(entry.color))
            if lookup[place] not in (0, class_id + 1):
                color = hex_color(entry.color)
                raise ValueError(f"{self._title} gives {color} to two classes; each needs its own color")
            lookup[place] = class_id + 1
        return lookup

    def _class_ids(self) -> list[tuple[Entry, int]]:
        class_ids = {entry.id: class_id for class_id, entry in enumerate(self.classes)}
        ignored = ignore_index(self.num_classes)
        return [(entry, class_ids.get(entry.id, ignored)) for entry in self.entries]

    def encode(self, raw: np.ndarray, file: object) -> np.ndarray:
        """Return the class ids (H, W) of a mask as stored, ``ignore_index(K)`` where the entry is ignored.

        Args:
            raw: (H, W) ids of any numeric type, or (H, W, 3) uint8 RGB colors.
            file: for the error message.

        Raises:
            DataError: a value is not in the table; the message suggests the missing rows.
        """
        kind = class_id_dtype(self.num_classes)
        if raw.dtype == np.uint8 and raw.ndim == 2:
            known = self._from_id[:256]
            if cv2.LUT(raw, (known < 0).astype(np.uint8)).any():
                raise self._unknown_values_error(raw, known[raw] < 0, file)
            return cv2.LUT(raw, known.astype(kind))
        if raw.ndim == 3:
            ids = self._from_color.take(_pack_colors(raw)).astype(np.int32) - 1
        elif raw.dtype == np.uint16:
            ids = self._from_id.take(raw)
        else:
            is_id = (raw >= -(1 << 15)) & (raw < 1 << 16)
            stored = np.where(is_id, raw, 0).astype(np.int32)
            ids = np.where(is_id & (stored == raw), self._from_id.take(stored), -1)
        if (unknown := ids < 0).any():
            raise self._unknown_values_error(raw, unknown, file)
        return ids.astype(kind)

    @property
    def _title(self) -> str:
        if self.source and not self._is_built_in:
            return self.source
        return f"the class table of {self.name}"

    @property
    def _is_built_in(self) -> bool:
        return Path(self.source).parent == TABLES

    def _unknown_values_error(self, raw: np.ndarray, unknown: np.ndarray, file: object) -> DataError:
        """Return the error for ids (H, W) or colors (H, W, 3), with a row that makes them known."""
        distinct, counts = np.unique(raw[unknown], axis=0, return_counts=True)
        values = [_format_value(value) for value in distinct]
        listed = [f"{v} ({format_count(n, 'pixel')})" for v, n in zip(values, counts.tolist(), strict=True)]
        more = f" and {len(values) - 8} more" if len(values) > 8 else ""
        text = f"{', '.join(listed[:8])}{more} not in {self._title}"
        row = f"{max(entry.id for entry in self.entries) + 1},NAME,{values[0]},"
        if raw.ndim == 2:
            text += f" (ids {format_ranges(entry.id for entry in self.entries)})"
            row = f"{values[0]},NAME,,"
        remedy = (
            f"add a row for each, such as `{row}` or, if these pixels are not labeled, `{row}yes` (under the "
            f"header {','.join(COLUMNS)})"
        )
        if self._is_built_in:
            remedy = (
                f"masks of {self.name} have no other values; check that this is one of its original files"
            )
        return DataError("values outside the table", file, text, remedy)

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Return the ids of the data set's masks; ignored pixels get the first ignored id."""
        unscored, taken = ignore_index(self.num_classes), {entry.id for entry in self.classes}
        ignored = [entry.id for entry in self.entries if entry.ignore and entry.id >= 0]
        ignored += [value for value in (255, 65535) if value not in taken]
        lookup = np.full(unscored + 1, ignored[0], np.uint16)
        lookup[: self.num_classes] = [entry.id for entry in self.classes]
        return lookup.astype(np.uint8 if lookup.max() < 256 else np.uint16)[ids]

    def describe(self) -> str:
        """Format up to 40 classes as rows of the table, for a message."""
        lines = [f"{e.id},{e.name},{hex_color(e.color)}" for e in self.classes[:40]]
        if self.num_classes > 40:
            lines.append("...")
        return f"[{' | '.join(lines)}]"

    def reorder(self, names: Sequence[str], owner: str) -> LabelMap:
        """Return this table with its classes in the order of ``names``, which are those of ``owner``.

        Raises:
            ValueError: the names differ; the message lists both.
        """
        if self.names == list(names):
            return self
        if len(names) != self.num_classes or set(names) != set(self.names):
            raise ValueError(
                f"{owner} has the classes {_format_names(names)}; "
                f"{self._title} has {_format_names(self.names)}. "
                "Classes are matched by name, in any order. Use the same names, or data with these classes"
            )
        by_name = dict(zip(self.names, self.classes, strict=True))
        ignored = (entry for entry in self.entries if entry.ignore)
        return replace(self, entries=(*(by_name[name] for name in names), *ignored))

    def to_plain(self) -> dict[str, Any]:
        """Return strings, numbers and lists, for a checkpoint."""
        return {
            "name": self.name,
            "entries": [[*entry[:2], list(entry.color), *entry[3:]] for entry in self.entries],
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> LabelMap:
        """Return the table from the output of ``to_plain``; a ``ValueError`` refuses anything else."""
        try:
            return cls(convert(plain["name"], str), convert(plain["entries"], tuple[Entry, ...]))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"the class table of a checkpoint is damaged: {error!r:.200}") from error

    def to_csv(self) -> str:
        """Return the content of a CSV file, without the categories, that ``read`` accepts."""
        text = io.StringIO()
        rows = [[e.id, e.name, hex_color(e.color), "yes" if e.ignore else ""] for e in self.entries]
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
        return text.getvalue()

    @classmethod
    def read(cls, file: Path, name: str) -> LabelMap:
        """Read a CSV file with columns ``id``, ``name`` and optional ``color``, ``ignore``, ``category``.

        A color is ``#rrggbb`` or three numbers, or is given in columns ``red``, ``green``, ``blue`` (or
        ``r``, ``g``, ``b``). Cells are separated by commas, semicolons or tabs.

        Raises:
            ValueError: the file is not such a table; the message has the line and what is accepted.
        """
        if not file.is_file():
            raise ValueError(f"{file}: no such class table. Create one with the columns {','.join(COLUMNS)}")
        text = files.read_text(file)
        header = text.partition("\n")[0]
        delimiter = max(",;\t", key=header.count)
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, delimiter=delimiter)
        try:
            columns = [(key or "").strip().lower() for key in reader.fieldnames or ()]
            reader.fieldnames = columns
            if not {"id", "name"} <= set(columns):
                raise ValueError(
                    f"{file}: the first line must name the columns {','.join(COLUMNS)}; it names "
                    f"{', '.join(columns)[:200]}"
                )
            entries = tuple(_parse_row(row, f"{file}, line {reader.line_num}") for row in reader)
        except csv.Error as error:
            raise ValueError(f"{file}, line {reader.line_num}: not a CSV file ({error})") from error
        return cls(name, entries, str(file))


def _format_value(value: np.ndarray) -> Any:
    """Return a stored value for a message: a color as text, whole numbers without a fraction."""
    if value.ndim:
        return hex_color(value)
    if np.isfinite(value) and value == np.rint(value):
        return int(value)
    return value.item()


def _format_names(names: Sequence[str]) -> str:
    """Return up to 40 names with their class ids."""
    shown = [f"{number} {name}" for number, name in enumerate(names[:40])]
    if len(names) > 40:
        shown.append("...")
    return f"[{', '.join(shown)}]"


def format_ranges(numbers: Iterable[int]) -> str:
    """Return numbers as ``0..10, 255``."""
    ordered, parts = sorted(numbers), []
    start = 0
    for place, number in enumerate(ordered):
        if place + 1 == len(ordered) or ordered[place + 1] != number + 1:
            parts.append(f"{ordered[start]}" if start == place else f"{ordered[start]}..{number}")
            start = place + 1
    return ", ".join(parts)


def load_builtin_label_map(name: str) -> LabelMap:
    """Return the table of a built-in data set."""
    return LabelMap.read(TABLES / f"{name}.csv", name)


def load_class_table(data: Mapping[str, Any]) -> LabelMap:
    """Return the table of the data settings, without listing images if the data set is built in."""
    if (TABLES / f"{data['name']}.csv").is_file():
        return load_builtin_label_map(data["name"])
    if "classes" not in data or "root" not in data:  # a plug-in
        return registry.build("data.datasets", data, split="val").table
    roots = [data["root"]] if isinstance(data["root"], str) else data["root"]
    return LabelMap.read(Path(roots[0]).expanduser() / Path(data["classes"]).expanduser(), data["name"])


def hex_color(color: Any) -> str:
    """Return ``#rrggbb``."""
    return "#" + "".join(f"{int(value):02x}" for value in color)


def _pack_colors(colors: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(colors.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def _parse_row(row: dict[Any, Any], place: str) -> Entry:
    if row.get(None):
        raise ValueError(f"{place}: more cells than columns in the first line")
    cells = {key: (cell or "").strip() for key, cell in row.items()}
    if not re.fullmatch(r"-?\d{1,9}(\.0*)?", cells["id"]):  # pandas writes 1.0 if the column has empty cells
        raise ValueError(f"{place}: id {row['id']!r} is not a whole number")
    identity, ignore = int(float(cells["id"])), cells.get("ignore", "").lower()
    if not -(1 << 15) <= identity < 1 << 16:
        raise ValueError(f"{place}: id {identity} does not fit a mask file; ids go up to 65535")
    if ignore not in IGNORE:
        raise ValueError(f"{place}: ignore={ignore!r}: must be yes, no or empty")
    color = _parse_color(cells, identity, place)
    return Entry(identity, cells["name"] or str(identity), color, IGNORE[ignore], cells.get("category", ""))


def automatic_color(identity: int) -> tuple[int, int, int]:
    """Return a hue for a class, far from those of the neighboring ids (golden angle)."""
    pixel = np.array([[[int(identity * 111.246) % 180, 190, 220 - 60 * (identity % 2)]]], np.uint8)
    return tuple(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].tolist())  # type: ignore[return-value]


def _parse_color(row: dict[str, str], identity: int, place: str) -> tuple[int, int, int]:
    three = " ".join(row.get(key) or row.get(key[0]) or "" for key in ("red", "green", "blue"))
    text = row.get("color") or row.get("colour") or three
    if not text.strip():
        return automatic_color(identity)
    if re.fullmatch(r"#?[0-9a-fA-F]{6}", text.strip()):
        return tuple(bytes.fromhex(text.strip()[-6:]))  # type: ignore[return-value]
    values = [int(value) for value in re.findall(r"\d+", text)]
    if len(values) != 3 or max(values) > 255:
        raise ValueError(f"{place}: color {text!r} is neither #rrggbb nor three numbers 0..255")
    return values[0], values[1], values[2]
