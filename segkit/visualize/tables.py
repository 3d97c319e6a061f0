"""Tables of classes as text and Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

WIDTH = 100  # longest line of a table


def format_class_table(names: Sequence[str], columns: Mapping[str, Sequence[float]]) -> str:
    """Format the scores of the classes in percent; above 20 classes in several columns.

    Args:
        names: of the K classes.
        columns: heading -> K fractions; NaN is shown as a dash.
    """
    heads = [f"{head:>{max(7, len(head) + 2)}}" for head in columns]
    room = WIDTH - sum(map(len, heads)) if len(names) <= 20 else 24
    longest = min(max(map(len, [*names, "class"])), room)
    block = longest + sum(map(len, heads))
    abreast = 1 if len(names) <= 20 else max(1, (WIDTH + 3) // (block + 3))
    rows = -(-len(names) // abreast)
    lines = ["   ".join([f"{'class':<{longest}}" + "".join(heads)] * min(abreast, -(-len(names) // rows)))]
    for row in range(rows):
        cells = []
        for k in range(row, len(names), rows):
            if len(names[k]) <= longest:
                name = names[k]
            else:
                name = names[k][: longest - 1] + "…"
            values = zip(heads, columns.values(), strict=True)
            cells.append(
                f"{name:<{longest}}" + "".join(f"{format_percent(v[k]):>{len(h)}}" for h, v in values)
            )
        lines.append("   ".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows with the first column aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers]).rstrip() + "\n")
    return "".join(lines)


def format_markdown_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a Markdown table; bars and line breaks in cells are escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in line) + " |"
        for line in lines
    )


def format_code_block(text: str) -> str:
    """Format text as a Markdown code block."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def worst_and_best_classes(values: Sequence[float], count: int) -> list[int]:
    """Return the class ids of the ``count`` lowest and highest values, lowest first, without NaN."""
    order = sorted((k for k in range(len(values)) if not math.isnan(values[k])), key=lambda k: values[k])
    if len(order) <= 2 * count:
        return order
    return order[:count] + order[-count:]


def most_confused_pairs(counts: np.ndarray, count: int) -> list[tuple[int, int, int, float]]:
    """Return the most frequent errors: (true class, predicted class, pixels, share of the true class).

    Args:
        counts: (K, K), rows are labels; or (K, K + 1) with pixels predicted as no class in the last column.
        count: number of errors.
    """
    counts = np.asarray(counts, dtype=np.int64)
    wrong = counts[:, : len(counts)] - np.diag(counts.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(order, wrong.shape)
    pairs = [(int(t), int(p), int(wrong[t, p])) for t, p in zip(rows, columns, strict=True) if wrong[t, p]]
    return [(t, p, n, n / int(counts[t].sum())) for t, p, n in pairs]


def format_percent(fraction: float) -> str:
    """Format a fraction in percent with two digits, NaN as a dash."""
    if math.isnan(fraction):
        return "-"
    return f"{100 * fraction:.2f}"


def format_bounds(bounds: tuple[float, float] | None) -> str:
    """Format an interval of fractions in percent; empty without bounds, or if they are NaN."""
    if bounds is None or math.isnan(bounds[0]):
        return ""
    return f"{format_percent(bounds[0])} to {format_percent(bounds[1])}"
