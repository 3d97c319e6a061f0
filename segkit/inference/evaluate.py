"""The one way of scoring, in training and in testing: pictures in, counts out, summed over all processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from typing import Protocol as Shape

import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from segkit import distributed, metrics
from segkit.inference.predict import predict
from segkit.inference.prepare import prepare
from segkit.inference.protocol import Protocol
from segkit.types import Sample


class Pictures(Shape):
    """What is scored: a data set as in ``segkit.data.datasets``."""

    table: Any

    def __len__(self) -> int: ...

    def read(self, index: int) -> Sample:
        """One picture with its label."""
        ...


class Evaluation(NamedTuple):
    """What an evaluation found, the same on every process."""

    counts: Tensor  # (K, K) int64 on the CPU, rows are labels
    scores: dict[str, float]  # fractions of 1
    class_iou: list[float]  # NaN for a class that neither labels nor predictions hold
    protocol: Protocol
    seconds: float


def evaluate(
    model: nn.Module,
    dataset: Pictures,
    protocol: Protocol,
    *,
    workers: int = 0,
    on_image: Callable[[Sample, np.ndarray], None] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score a model on a data set.

    Args:
        model: a segmenter, on the device that is to compute.
        dataset: its pictures are shared out to the processes, none twice.
        protocol: how to look at each picture.
        workers: processes that read ahead.
        on_image: called with each sample and its predicted ids (H, W) uint8, in the process that has them.
        progress: show a bar.

    Raises:
        ValueError: the data set is empty, or its labels are not those of the model.
    """
    started = time.perf_counter()
    if len(dataset) == 0:
        raise ValueError("the data set is empty: check data.root and data.val_split")
    fast = prepare(model, precision=protocol.precision)
    device = next(model.parameters()).device
    matrix = metrics.ConfusionMatrix(int(model.num_classes), device)  # pyright: ignore[reportArgumentType]
    mine = range(distributed.rank(), len(dataset), distributed.world_size())
    silent = None if progress and distributed.is_main() else True  # None: silent where there is no terminal
    samples = _read(dataset, mine, workers)
    for sample in tqdm(samples, "scoring", len(mine), leave=False, unit="picture", disable=silent):
        prediction = predict(fast, sample.image, protocol)
        matrix.update(sample.label, prediction)
        if on_image:
            on_image(sample, prediction.cpu().numpy())
    counts = distributed.sum_over_ranks(matrix.counts).cpu()
    return Evaluation(
        counts,
        metrics.scores(counts, absent=protocol.absent),
        metrics.class_scores(counts)["IoU"].tolist(),
        protocol,
        time.perf_counter() - started,
    )


def _read(dataset: Pictures, indices: Sequence[int], workers: int) -> Iterator[Sample]:
    return iter(
        DataLoader(_Indexed(dataset), None, sampler=indices, num_workers=workers, collate_fn=_as_it_is)
    )  # pyright: ignore[reportArgumentType]


class _Indexed:
    """A data set as the loader wants it."""

    def __init__(self, dataset: Pictures) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset.read(index)


def _as_it_is(sample: Sample) -> Sample:
    return sample
