"""Draw class ids: colors, overlays, errors, legends, grids and the confusion matrix.

Every image is (H, W, 3) uint8 RGB, in and out. Before version 5, OpenCV writes ASCII text only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from segkit.runtime import files
from segkit.types import PHOTOGRAPHS, Bands, Sample, ignore_index, label_ignore_index

INK, PAPER, GRAY = (32, 33, 36), (255, 255, 255), (154, 160, 166)
RIGHT, WRONG, IGNORED = (45, 52, 64), (240, 98, 40), (128, 128, 128)  # dark against orange: seen by every eye
FONT = cv2.FONT_HERSHEY_SIMPLEX
LONGEST_JPEG = 65500  # pixels of a side
OPACITY = 0.55  # of an overlay
WIDEST = 8  # times its height: a thin image is shown smaller
SHEET_HEIGHT = 160  # pixels of a sample in a sheet
MATRIX_SIDE = 720  # pixels of a confusion matrix, about
LINE = 18  # pixels from one line of text to the next
LEGEND_WIDTH = 1000  # pixels; the legend of a wider image is enlarged so that it stays readable


def to_display_rgb(image: np.ndarray, bands: Bands = PHOTOGRAPHS) -> np.ndarray:
    """Return an image (H, W, C) of any bands as RGB, black and white at the ends of the value range.

    While the range is ``percentile`` or ``minmax``, they are the 2nd and 98th percentile of this image.
    """
    if bands.is_photograph and image.shape[2] == 3 and image.dtype == np.uint8:
        return image
    places = bands.choose_display_bands(image.shape[2])
    values = image[..., places].astype(np.float32)
    if isinstance(bands.range, str):
        low, high = np.percentile(values, (2, 98), axis=(0, 1)).astype(np.float32)
    else:
        low, high = np.array(bands.value_ranges(image.shape[2]), np.float32)[places].T
    gray = np.rint((values - low) / np.maximum(high - low, 1e-12) * 255).clip(0, 255).astype(np.uint8)
    if len(places) == 1:
        return np.repeat(gray, 3, axis=2)
    return gray


def colorize(ids: np.ndarray, colors: np.ndarray, *, ignored: Sequence[int] = (0, 0, 0)) -> np.ndarray:
    """Paint class ids (H, W) with the K colors of a label table (K, 3); ignored pixels get ``ignored``.

    Raises:
        ValueError: an id is neither one of the K classes nor ignored.
    """
    ids, colors = np.asarray(ids), np.asarray(colors, dtype=np.uint8)
    unscored = ignore_index(len(colors))
    is_unknown = (ids != unscored) & ((ids < 0) | (ids >= len(colors)))
    if is_unknown.any():
        raise ValueError(
            f"class id {ids[is_unknown][0]} has no color: the table has {len(colors)} "
            f"(0..{len(colors) - 1}); does it belong to the data set of this label?"
        )
    palette = np.zeros((unscored + 1, 3), np.uint8)
    palette[: len(colors)] = colors
    palette[unscored] = ignored
    return palette[ids]


def draw_overlay(image: np.ndarray, ids: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Blend the colors of the classes over an image; ignored pixels are unchanged."""
    painted = cv2.addWeighted(colorize(ids, colors), OPACITY, image, 1 - OPACITY, 0)
    return np.where((np.asarray(ids) == ignore_index(len(colors)))[..., None], image, painted)


def draw_error_map(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Draw where a prediction is right (dark), wrong (orange) and not scored (gray)."""
    outcome = np.where(label == label_ignore_index(label), 2, np.where(label == prediction, 0, 1))
    return np.array([RIGHT, WRONG, IGNORED], np.uint8)[outcome]


def draw_legend(names: Sequence[str], colors: np.ndarray, *, width: int) -> np.ndarray:
    """Draw swatches with class names, in as many columns as fit into ``width`` pixels."""
    widest = max(text_width(name) for name in names) + LINE + 20
    columns = min(max(1, width // widest), len(names))
    rows = -(-len(names) // columns)
    canvas = blank_canvas(rows * LINE + 8, max(width, widest))
    for index, (name, color) in enumerate(zip(names, np.asarray(colors).tolist(), strict=True)):
        x, y = 6 + index // rows * (canvas.shape[1] // columns), 4 + index % rows * LINE
        cv2.rectangle(canvas, (x, y + 2), (x + 14, y + LINE - 3), color, cv2.FILLED)
        cv2.rectangle(canvas, (x, y + 2), (x + 14, y + LINE - 3), GRAY, 1)
        write_text(canvas, name, (x + LINE + 3, y + LINE - 5))
    return canvas


def add_legend(
    image: np.ndarray, ids: Sequence[np.ndarray], names: Sequence[str], colors: np.ndarray
) -> np.ndarray:
    """Return an image above a legend of the classes that occur in maps of class ids, if any do."""
    present = present_classes(ids)
    if not present:
        return image
    factor = max(1, round(image.shape[1] / LEGEND_WIDTH))
    legend = draw_legend([names[k] for k in present], colors[present], width=image.shape[1] // factor)
    if factor > 1:
        legend = cv2.resize(legend, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return stack_vertically(image, legend)


def draw_grid(
    rows: Sequence[Sequence[np.ndarray]], *, titles: Sequence[str] = (), height: int = 240
) -> np.ndarray:
    """Draw images in rows and columns, each ``height`` pixels tall, with titles above."""
    cells = [[scale_to_height(image, height) for image in row] for row in rows]
    columns = max(len(row) for row in cells)
    widths = [max(row[c].shape[1] for row in cells if c < len(row)) for c in range(columns)]
    left = np.cumsum([0, *(width + 4 for width in widths)]).tolist()
    top = LINE + 4 if titles else 0
    canvas = blank_canvas(top + len(cells) * (height + 4) - 4, left[-1] - 4)
    for column, title in enumerate(titles):
        write_text(canvas, title, (left[column] + 2, LINE - 3))
    for y, row in zip(range(top, canvas.shape[0], height + 4), cells, strict=True):
        for x, cell in zip(left, row, strict=False):
            canvas[y : y + height, x : x + cell.shape[1]] = cell
    return canvas


def draw_sheet(
    samples: Sequence[Sample],
    names: Sequence[str],
    colors: np.ndarray,
    *,
    predictions: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Draw samples above a legend: one per row with its prediction, or two per row with their labels."""
    cells = []
    for sample, prediction in itertools.zip_longest(samples, predictions):
        cells += [to_display_rgb(sample.image, sample.bands), colorize(sample.label, colors)]
        if prediction is not None:
            cells += [colorize(prediction, colors), draw_error_map(sample.label, prediction)]
    titles = ("image", "label") * min(2, len(samples))
    if predictions:
        titles = ("image", "label", "prediction", "error (gray: not scored)")
    grid = draw_grid([cells[i : i + 4] for i in range(0, len(cells), 4)], titles=titles, height=SHEET_HEIGHT)
    return add_legend(grid, [*(sample.label for sample in samples), *predictions], names, colors)


def present_classes(ids: Sequence[np.ndarray]) -> list[int]:
    """Return the sorted classes that occur in maps of class ids."""
    return sorted({int(k) for one in ids for k in np.unique(one) if k != label_ignore_index(one)})


def draw_confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Draw a confusion matrix: rows are true classes, columns predicted ones, cells percentages of the row.

    Above 40 classes, ids replace names, as many as fit.

    Args:
        counts: (K, K), or (K, K + 1) with pixels predicted as no class, true class first; a class without
            pixels has an empty row.
        names: of the K classes.
    """
    counts = np.asarray(counts, dtype=np.float64)
    shares = (counts / np.maximum(counts.sum(1, keepdims=True), 1))[:, : len(names)]
    cell = min(48, max(1, MATRIX_SIDE // len(names)))
    step, labels = 1, [f"{k} {name}" for k, name in enumerate(names)]
    if len(names) > 40:
        step, labels = 10 * math.ceil(LINE / (10 * cell)), [str(k) for k in range(len(names))]
    margin = max(text_width(label) for label in labels) + 14
    side = cell * len(names)
    caption = "rows: truth, columns: prediction, % of the row"
    canvas = blank_canvas(margin + side + LINE + 8, max(margin + side, text_width(caption)) + 12)
    matrix = np.kron(fraction_to_color(shares), np.ones((cell, cell, 1), np.uint8))
    canvas[margin : margin + side, margin : margin + side] = matrix
    cv2.rectangle(canvas, (margin - 1, margin - 1), (margin + side, margin + side), GRAY)
    for k in range(0, len(names), step):
        middle = k * cell + cell // 2
        write_text(canvas, labels[k], (margin - 6 - text_width(labels[k]), margin + middle + 5))
        upright = blank_canvas(LINE, text_width(labels[k]) + 4)
        write_text(upright, labels[k], (2, LINE - 5))
        paste_image(canvas, np.rot90(upright), (margin - 4 - upright.shape[1], margin + middle - LINE // 2))
    if cell >= 24:  # room for two digits
        for row, column in np.argwhere(shares >= 0.005):
            percent, x, y = f"{100 * shares[row, column]:.0f}", margin + column * cell, margin + row * cell
            ink = PAPER if shares[row, column] > 0.2 else INK
            write_text(canvas, percent, (x + (cell - text_width(percent)) // 2, y + cell // 2 + 5), ink)
    write_text(canvas, caption, (6, canvas.shape[0] - 8))
    return canvas


def save_image(path: Path, image: np.ndarray) -> Path:
    """Write an (H, W, 3) RGB image or (H, W) ids atomically, in the format of the suffix.

    Raises:
        ValueError: OpenCV does not know the suffix.
    """
    encoded = encode_image(image, path.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(path) as file:
        file.write(encoded)
    return path


def encode_image(image: np.ndarray, suffix: str = ".png") -> bytes:
    """Return an image as the bytes of a file; longer sides than JPEG allows are shrunk to that."""
    longest = max(image.shape[:2])
    if suffix.lower() in (".jpg", ".jpeg") and longest > LONGEST_JPEG:
        size = [max(1, side * LONGEST_JPEG // longest) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if not cv2.haveImageWriter(f"x{suffix}"):
        raise ValueError(f"cannot write images as {suffix!r}; use .png or .jpg")
    if image.ndim == 2:
        ordered = image
    else:
        ordered = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(suffix, ordered)[1].tobytes()


def shrink_sample(sample: Sample, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the image (h, w, 3) uint8 and the label (h, w) of a sample, at most ``side`` pixels long."""
    height, width = sample.label.shape
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = cv2.resize(to_display_rgb(sample.image, sample.bands), size, interpolation=cv2.INTER_AREA)
    return image, cv2.resize(sample.label, size, interpolation=cv2.INTER_NEAREST_EXACT)


def blank_canvas(height: int, width: int) -> np.ndarray:
    """Return an empty canvas."""
    return np.full((height, width, 3), PAPER, np.uint8)


def scale_to_height(image: np.ndarray, height: int) -> np.ndarray:
    """Resize an image to a height, averaging if it shrinks, nearest neighbor if it grows.

    A very wide image is resized to a width instead, with padding below.
    """
    scale = min(height / image.shape[0], WIDEST * height / image.shape[1])
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST_EXACT
    scaled = cv2.resize(image, size, interpolation=interpolation)
    return cv2.copyMakeBorder(scaled, 0, height - size[1], 0, 0, cv2.BORDER_CONSTANT, value=PAPER)


def stack_vertically(*images: np.ndarray) -> np.ndarray:
    """Stack images vertically, padded to the widest."""
    width = max(image.shape[1] for image in images)
    return np.concatenate(
        [cv2.copyMakeBorder(p, 0, 0, 0, width - p.shape[1], cv2.BORDER_CONSTANT, value=PAPER) for p in images]
    )


def fraction_to_color(shares: np.ndarray) -> np.ndarray:
    """Map fractions 0..1 to colors from white to dark blue; the square root makes small ones visible."""
    weight = np.sqrt(shares)[..., None]
    return np.rint((1 - weight) * np.array(PAPER) + weight * np.array((8, 48, 107))).astype(np.uint8)


def text_width(text: str) -> int:
    """Pixels that ``write_text`` needs for a line."""
    return cv2.getTextSize(text, FONT, 0.45, 1)[0][0]


def write_text(canvas: np.ndarray, text: str, position: tuple[int, int], ink: Sequence[int] = INK) -> None:
    """Write one line in place; ``position`` is the left end of its baseline (x, y)."""
    cv2.putText(canvas, text, position, FONT, 0.45, ink, 1, cv2.LINE_AA)


def paste_image(canvas: np.ndarray, image: np.ndarray, corner: tuple[int, int]) -> None:
    """Paste an image in place with its corner at (y, x), clipped to the canvas."""
    y, x = corner
    target = canvas[max(y, 0) : y + image.shape[0], max(x, 0) : x + image.shape[1]]
    target[:] = image[max(-y, 0) :, max(-x, 0) :][: target.shape[0], : target.shape[1]]
