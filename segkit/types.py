"""What travels between modules, what an extension must offer, and one legend for every shape.

B images in a batch, K classes, H x W pixels of an image, h x w cells of a feature map, C channels,
s a stride. Images are RGB; labels hold class ids 0..K-1 or ``ignore_index(K)``, and class ids are of
``id_type(K)``: bytes for up to 255 classes, int16 for more.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from torch import Tensor

IGNORE_INDEX = 255
"""Label, in bytes, of pixels that are neither trained on nor scored: of data sets of up to 255 classes."""

MOST_CLASSES = 32767
"""As many as int16 tells apart, beside the label of its own for such pixels: this number."""


def ignore_index(num_classes: int) -> int:
    """Label of pixels that are neither trained on nor scored, in a data set of so many classes."""
    return IGNORE_INDEX if num_classes <= IGNORE_INDEX else MOST_CLASSES


def class_id_dtype(num_classes: int) -> Literal["uint8", "int16"]:
    """What NumPy and PyTorch call the type of the class ids of so many classes."""
    return "uint8" if num_classes <= IGNORE_INDEX else "int16"


def ignore_index_of(label: np.ndarray | Tensor) -> int:
    """As ``ignore_index``, for a label whose type says whether the classes are many."""
    return MOST_CLASSES if str(label.dtype) in ("int16", "torch.int16") else IGNORE_INDEX


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in 0..1, as published weights expect it."""


class Bands(NamedTuple):
    """Which bands of a file an image has, what their values mean, and which of them people see.

    The default is a photograph: red, green and blue of 0..255.
    """

    chosen: tuple[int, ...] | None = (
        None  # counted from 1, as GDAL does; None: RGB, gray as three equal bands
    )
    range: tuple[float, float] | tuple[tuple[float, float], ...] | str | None = None  # of all, or of each
    display: tuple[int, ...] | None = None  # numbers as in ``chosen``: one is gray, three are RGB
    fill: float | None = None  # what stands in for NaN; None refuses it

    @property
    def photographs(self) -> bool:
        """Whether images are uint8 RGB, as cameras write them."""
        return self.chosen is None and self.range is None

    def value_ranges(self, count: int) -> list[tuple[float, float]]:
        """The values of black and of white of each of so many bands.

        Raises:
            ValueError: the range is a word, so that the images are still to say it.
        """
        if isinstance(self.range, str):
            raise ValueError(f"data.range={self.range}: the images have not been looked at")
        first = None if self.range is None else self.range[0]
        if first is None or isinstance(first, float | int):
            return [self.range or (0.0, 255.0)] * count  # type: ignore[list-item]
        return list(self.range)  # type: ignore[arg-type]

    def displayed(self, count: int) -> list[int]:
        """Positions of the bands that are shown, one or three, in an image of so many."""
        if self.display is not None:
            numbers = list(self.chosen or range(1, count + 1))
            return [numbers.index(band) for band in self.display]
        return [0, 1, 2] if count >= 3 else [0]


PHOTOGRAPHS = Bands()


class Sample(NamedTuple):
    """One image with its label, as read or as augmented, on the CPU; C bands, three as a rule."""

    image: np.ndarray  # (H, W, C) uint8 RGB; of ``bands`` uint8, uint16, int16 or float32, as stored
    label: np.ndarray  # (H, W) class ids
    name: str  # unique in its split: the file's path below the image folder, without suffix
    bands: Bands = PHOTOGRAPHS


class Batch(NamedTuple):
    """Several samples of one size; what is stored travels, the device normalizes."""

    image: Tensor  # (B, C, H, W), the type of the samples
    label: Tensor  # (B, H, W) class ids
    names: list[str]
    bands: Bands = PHOTOGRAPHS


class Logits(NamedTuple):
    """What a segmenter returns, in training and in evaluation."""

    main: Tensor  # (B, K, H, W); for a loss also (B, K, h, w), which it resizes piece by piece
    aux: Tensor | None = None  # likewise; None without an auxiliary head
    align_corners: bool = True  # how a loss resizes them


class EvaluatorResult(NamedTuple):
    """What an evaluator found on a split; fractions of 1, NaN where nothing counts."""

    scores: dict[str, float]  # the split's, by names that no other evaluator has
    classes: Mapping[str, list[float]] = MappingProxyType({})  # columns of K values, for the table of classes
    groups: Mapping[str, float] = MappingProxyType({})  # IoU of groups of classes, by their names


class ClassTable(Protocol):
    """The K classes of a data set, in the order of their ids; ``segkit.data.label_map.LabelMap`` is one."""

    @property
    def name(self) -> str:
        """Of the data set."""
        ...

    @property
    def num_classes(self) -> int:
        """K, at most ``MOST_CLASSES``."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """K different names."""
        ...

    @property
    def colors(self) -> np.ndarray:
        """(K, 3) uint8, RGB."""
        ...

    @property
    def categories(self) -> Sequence[str]:
        """K names of groups of classes; empty strings where there are none."""
        ...

    def to_plain(self) -> dict[str, Any]:
        """Strings, numbers and lists only, for a checkpoint."""
        ...


class Dataset(Protocol):
    """One split of a data set; workers get it pickled where they are spawned."""

    @property
    def name(self) -> str:
        """Printed beside scores."""
        ...

    @property
    def table(self) -> ClassTable:
        """Of the classes that the labels tell apart."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Of the samples, each once, in their order."""
        ...

    @property
    def on_error(self) -> str:
        """``stop``, or ``skip``: a sample that cannot be read is counted, logged and replaced."""
        ...

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def read(self, index: int) -> Sample:
        """The sample at a place; the same each time.

        Raises:
            DataError: it cannot be read (``segkit.data.label_map.DataError``).
        """
        ...


class Backbone(Protocol):
    """A module from a normalized image to four feature maps, coarser from stage to stage."""

    @property
    def out_channels(self) -> Sequence[int]:
        """C of each of the four stages."""
        ...

    @property
    def output_stride(self) -> int:
        """Pixels of the image per cell of the last stage: 8, 16 or 32."""
        ...

    def __call__(self, image: Tensor) -> Sequence[Tensor]:
        """(B, 3, H, W) float to four of (B, C_i, H/s_i, W/s_i), sizes rounded up."""
        ...


class Head(Protocol):
    """A module from the stages of a backbone to logits."""

    def __call__(self, stages: Sequence[Tensor]) -> Tensor:
        """Four of (B, C_i, h_i, w_i) to (B, K, h, w) at any size; the segmenter resizes them to the image."""
        ...


class Loss(Protocol):
    """A module from logits to named parts whose sum is the loss.

    A part of a batch counts by its share of the whole batch's ``weight``, over all parts and processes.
    """

    def __call__(self, logits: Logits, label: Tensor) -> dict[str, Tensor]:
        """Logits (B, K, H, W) and label (B, H, W) to scalars by name; finite where all is ignored."""
        ...

    def weight(self, label: Tensor) -> Tensor:
        """What the mean was divided by: a float64 scalar that depends on the label (B, H, W) alone."""
        ...


class Evaluator(Protocol):
    """Accumulates over images; what it accumulates adds up over images, processes and interruptions."""

    def update(self, label: np.ndarray, prediction: Tensor) -> None:
        """Count one image: label (H, W) on the CPU, prediction (H, W) on the network's device."""
        ...

    def state(self) -> Tensor:
        """All that was counted so far, zero at first: int64 or float64 of a fixed shape."""
        ...

    def compute(self, state: Tensor) -> EvaluatorResult:
        """What follows from a sum of states, on the CPU; nothing else that ``update`` saw may enter."""
        ...


class Writer(Protocol):
    """Records a run; called on the main process alone, with iterations counted as steps done."""

    def add_scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Points of several curves, by tags such as ``train/loss`` and ``val/mIoU``."""
        ...

    def add_image(self, tag: str, iteration: int, image: np.ndarray) -> None:
        """An (H, W, 3) uint8 RGB image."""
        ...

    def add_text(self, tag: str, iteration: int, markdown: str) -> None:
        """A text in Markdown."""
        ...

    def add_hparams(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Flat settings of the run, once, and the tags of the scores to show beside them."""
        ...

    def flush(self) -> None:
        """Bring everything to the disk; called before each checkpoint."""
        ...

    def close(self) -> None:
        """Flush, and take no more."""
        ...
