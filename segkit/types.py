"""Types shared by all modules, the protocols of components, and the legend of all shapes.

B images in a batch, K classes, H x W pixels of an image, h x w cells of a feature map, C channels, s a
stride. Images are RGB; labels hold class ids 0..K-1 or ``ignore_index(K)``, of ``class_id_dtype(K)``: bytes
for up to 255 classes, int16 for more.
"""

# pyright: reportReturnType=false
# (methods of the protocols have only a docstring)

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from torch import Tensor

IGNORE_INDEX = 255
"""Label of pixels that are neither trained on nor scored, in data sets of up to 255 classes."""

MAX_CLASSES = 32767
"""The most classes that int16 can hold; also the label of pixels that are not scored in such data sets."""


def ignore_index(num_classes: int) -> int:
    """Return the label of ignored pixels: 255, or 32767 for more than 255 classes."""
    if num_classes <= IGNORE_INDEX:
        return IGNORE_INDEX
    return MAX_CLASSES


def class_id_dtype(num_classes: int) -> Literal["uint8", "int16"]:
    """Return the dtype of class ids, for a number of classes."""
    if num_classes <= IGNORE_INDEX:
        return "uint8"
    return "int16"


def label_ignore_index(label: np.ndarray | Tensor) -> int:
    """Return the ``ignore_index`` of a label by its dtype."""
    if str(label.dtype) in ("int16", "torch.int16"):
        return MAX_CLASSES
    return IGNORE_INDEX


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Statistics of RGB in 0..1, as published weights expect them."""


class Bands(NamedTuple):
    """The bands of an image file: which are read, their value range, and which are displayed.

    The default is a photograph: red, green and blue of 0..255.
    """

    chosen: tuple[int, ...] | None = None  # counted from 1, as by GDAL; None: RGB, gray as three equal bands
    range: tuple[float, float] | tuple[tuple[float, float], ...] | str | None = None  # of all, or of each
    display: tuple[int, ...] | None = None  # numbers as in ``chosen``: one is gray, three are RGB
    fill: float | None = None  # replaces NaN; None refuses it

    @property
    def is_photograph(self) -> bool:
        """Return whether images are uint8 RGB photographs."""
        return self.chosen is None and self.range is None

    def value_ranges(self, count: int) -> list[tuple[float, float]]:
        """Return the stored values of black and white, for each of ``count`` bands.

        Raises:
            ValueError: the range is still to be computed from the images.
        """
        if isinstance(self.range, str):
            raise ValueError(f"data.range={self.range}: the range has not been computed from the images")
        first = None if self.range is None else self.range[0]
        if first is None or isinstance(first, float | int):
            return [self.range or (0.0, 255.0)] * count  # type: ignore[list-item]
        return list(self.range)  # type: ignore[arg-type]

    def choose_display_bands(self, count: int) -> list[int]:
        """Return the positions of the displayed bands, one or three, in an image of ``count`` bands."""
        if self.display is not None:
            numbers = list(self.chosen or range(1, count + 1))
            return [numbers.index(band) for band in self.display]
        if count >= 3:
            return [0, 1, 2]
        return [0]


PHOTOGRAPHS = Bands()


class Sample(NamedTuple):
    """One image with its label, as read or as augmented, on the CPU; C bands, usually three."""

    image: np.ndarray  # (H, W, C) uint8 RGB; with ``bands`` uint8, uint16, int16 or float32, as stored
    label: np.ndarray  # (H, W) class ids
    name: str  # unique in its split: the file's path below the image folder, without suffix
    bands: Bands = PHOTOGRAPHS


class Batch(NamedTuple):
    """Several samples of one size with their stored values; the device normalizes them."""

    image: Tensor  # (B, C, H, W), the type of the samples
    label: Tensor  # (B, H, W) class ids
    names: list[str]
    bands: Bands = PHOTOGRAPHS


class Logits(NamedTuple):
    """Output of a segmenter, in training and in evaluation."""

    main: Tensor  # (B, K, H, W); for a loss also (B, K, h, w), which it resizes in chunks
    aux: Tensor | None = None  # of the auxiliary head; None without one
    align_corners: bool = True  # how a loss resizes them


class EvaluatorResult(NamedTuple):
    """Scores of a split; fractions of 1, NaN where undefined."""

    scores: dict[str, float]  # by names that no other evaluator uses
    classes: Mapping[str, list[float]] = MappingProxyType({})  # columns of K values for the class table
    groups: Mapping[str, float] = MappingProxyType({})  # IoU of groups of classes by name


class ClassTable(Protocol):
    """The K classes of a data set in the order of their ids, as ``segkit.data.label_map.LabelMap``."""

    @property
    def name(self) -> str:
        """Name of the data set."""

    @property
    def num_classes(self) -> int:
        """K, at most ``MAX_CLASSES``."""

    @property
    def names(self) -> Sequence[str]:
        """K different names."""

    @property
    def colors(self) -> np.ndarray:
        """RGB colors, (K, 3) uint8."""

    @property
    def categories(self) -> Sequence[str]:
        """Names of the groups of the K classes; empty strings for none."""

    def to_plain(self) -> dict[str, Any]:
        """Return the table as strings, numbers and lists, for a checkpoint."""


class Dataset(Protocol):
    """One split of a data set; it must be picklable for spawned workers."""

    @property
    def name(self) -> str:
        """Name printed beside scores."""

    @property
    def table(self) -> ClassTable:
        """Classes of the labels."""

    @property
    def names(self) -> Sequence[str]:
        """Unique names of the samples, in order."""

    @property
    def on_error(self) -> str:
        """``stop``, or ``skip``: an unreadable sample is counted, logged and replaced."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def read(self, index: int) -> Sample:
        """Return a sample; the same for the same index.

        Raises:
            DataError: it cannot be read (``segkit.data.label_map.DataError``).
        """


class Backbone(Protocol):
    """A module from a normalized image to four feature maps, from fine to coarse.

    An attribute ``normalization`` is optional: the mean and standard deviation of RGB, in 0..1, that its
    published weights expect. Without it those of ImageNet are used.
    """

    @property
    def out_channels(self) -> Sequence[int]:
        """Channels of each of the four stages."""

    @property
    def output_stride(self) -> int:
        """Stride of the last stage: 8, 16 or 32."""

    def __call__(self, image: Tensor) -> Sequence[Tensor]:
        """Map a (B, 3, H, W) float image to four (B, C_i, H/s_i, W/s_i); sizes are rounded up."""


class Head(Protocol):
    """A module from the stages of a backbone to logits."""

    def __call__(self, stages: Sequence[Tensor]) -> Tensor:
        """Map four (B, C_i, h_i, w_i) to (B, K, h, w) of any size; the segmenter resizes it to the image."""


class Loss(Protocol):
    """A module from logits to named terms whose sum is the loss.

    The loss of a micro-batch counts by its share of the ``weight`` of the batch over all processes.
    """

    def __call__(self, logits: Logits, label: Tensor) -> dict[str, Tensor]:
        """Return scalars by name for a label (B, H, W); finite even if all pixels are ignored."""

    def compute_weight(self, label: Tensor) -> Tensor:
        """Return the divisor of the mean: a float64 scalar that depends on the label (B, H, W) alone."""


class Evaluator(Protocol):
    """Accumulates over images; states can be added over images, processes and interruptions."""

    def update(self, label: np.ndarray, prediction: Tensor) -> None:
        """Count one image: label (H, W) on the CPU, prediction (H, W) on the network's device."""

    def state(self) -> Tensor:
        """Return the counts so far, zero at first: int64 or float64 of a fixed shape."""

    def compute(self, state: Tensor) -> EvaluatorResult:
        """Return the scores of a sum of states, on the CPU, from the state alone."""


class Writer(Protocol):
    """Records a run; called in the main process only, with the number of finished iterations.

    A subclass need not define all methods: those of this class do nothing.
    """

    def add_scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Write points of several curves, by tags such as ``train/loss`` and ``val/mIoU``."""

    def add_image(self, tag: str, iteration: int, image: np.ndarray) -> None:
        """Write an (H, W, 3) uint8 RGB image."""

    def add_text(self, tag: str, iteration: int, markdown: str) -> None:
        """Write a text in Markdown."""

    def add_hparams(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Write the flat settings of the run, once, and the tags of its main scores."""

    def flush(self) -> None:
        """Flush to disk; called before each checkpoint."""

    def close(self) -> None:
        """Flush and close."""
