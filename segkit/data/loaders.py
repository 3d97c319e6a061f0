"""The stream of training batches: an endless row of (sample, draw seed), the same however it is shared out.

Position p of the stream is place ``p % n`` of epoch ``p // n``, where an epoch takes n samples. The order of
an epoch follows from (seed, epoch), what is drawn for a sample from (seed, epoch, sample); so nothing depends
on workers, on the number of processes, or on where a run was interrupted.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from segkit.data.label_map import DataError
from segkit.data.transforms import Transform
from segkit.runtime import signals
from segkit.runtime.seeds import seed_of
from segkit.types import Batch, Dataset, Sample

log = logging.getLogger("segkit")


class SampleSeed(NamedTuple):
    """One place of the stream."""

    sample: int
    seed: int  # of its transform


class SampleOrder(NamedTuple):
    """Which samples make which batch, for one process of ``world_size``.

    Iteration t of the optimizer takes positions ``t * batch_size`` onwards, in ``accumulate`` batches, of
    which each process takes its contiguous share.
    """

    samples: int
    seed: int
    batch_size: int  # over all processes and accumulated batches
    accumulate: int = 1
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False  # an epoch leaves out what fills no batch: other samples in each

    @property
    def samples_per_epoch(self) -> int:
        """Samples that an epoch takes; a set that fills no batch is taken whole."""
        whole = self.samples - self.samples % self.batch_size
        return whole if self.drop_last and whole else self.samples

    def batches(self, iteration: int) -> list[list[SampleSeed]]:
        """The batches of one iteration of the optimizer."""
        share = self.batch_size // (self.accumulate * self.world_size)
        firsts = [
            iteration * self.batch_size + (part * self.world_size + self.rank) * share
            for part in range(self.accumulate)
        ]
        return [[self.sample_at(first + place) for place in range(share)] for first in firsts]

    def sample_at(self, position: int) -> SampleSeed:
        """What stands at a position of the stream."""
        epoch, place = divmod(position, self.samples_per_epoch)
        index = int(_epoch_order(self.samples, self.seed, epoch)[place])
        return SampleSeed(index, seed_of(self.seed, epoch, index))


@lru_cache(maxsize=2)  # a batch may span two epochs
def _epoch_order(samples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(seed_of(seed, epoch)).permutation(samples)


class _BatchSampler:
    """The batches of a range of iterations, one after another; what DataLoader calls a batch sampler."""

    def __init__(self, order: SampleOrder, iterations: range):
        self.order, self.iterations = order, iterations

    def __len__(self) -> int:
        return len(self.iterations) * self.order.accumulate

    def __iter__(self) -> Iterator[list[SampleSeed]]:
        for iteration in self.iterations:
            yield from self.order.batches(iteration)


class _SampleReader:
    """Reads and transforms in the worker; a sample that cannot be read comes back as its fault."""

    def __init__(self, dataset: Dataset, transform: Transform):
        self.dataset, self.transform = dataset, transform

    def __getitem__(self, draw: SampleSeed) -> tuple[Sample | None, list[str]]:
        faults: list[str] = []
        tries = 1 if self.dataset.on_error == "stop" else len(self.dataset)
        for step in range(tries):
            try:  # the next sample stands in for one that cannot be read
                return self.transform(
                    self.dataset.read((draw.sample + step) % len(self.dataset)), draw.seed
                ), faults
            except DataError as fault:
                faults.append(str(fault))
        return None, faults


class TrainingLoader:
    """Batches of this process for a range of iterations; ``skipped`` counts samples that were replaced."""

    def __init__(
        self, dataset: Dataset, transform: Transform, order: SampleOrder, iterations: range, workers: int
    ):
        self.dataset, self.skipped = dataset, 0
        self.logged: set[str] = set()  # what was said of a file is not said in every epoch
        self.loader = DataLoader(
            _SampleReader(dataset, transform),  # type: ignore[arg-type]
            batch_sampler=_BatchSampler(order, iterations),  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=_init_worker,
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        with warnings.catch_warnings():  # workers touch nothing that the threads of their parent may hold
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            batches = iter(self.loader)
        for batch, faults in batches:
            if batch is None:
                raise ValueError(f"{faults[-1]} (data.on_error=skip goes on without such samples)")
            for fault in faults:
                self.skipped += 1
                if fault not in self.logged:
                    log.warning("skipped, %d by now: %s", self.skipped, fault)
                self.logged.add(fault)
            yield batch


def training_loader(
    dataset: Dataset, transform: Transform, order: SampleOrder, *, iterations: range, workers: int = 0
) -> TrainingLoader:
    """Batches of training samples.

    Args:
        dataset: what to read.
        transform: called with each sample and its draw seed; workers that are spawned get it pickled.
        order: of the samples, and how they make batches.
        iterations: of the optimizer, ``range(start, end)``; each gives ``order.accumulate`` batches.
        workers: processes that read; 0 reads here.

    Raises:
        ValueError: the batch cannot be shared out evenly; while iterating, a sample cannot be read.
    """
    parts = order.accumulate * order.world_size
    if order.batch_size % parts:
        raise ValueError(
            f"schedule.batch_size={order.batch_size} cannot be shared evenly by {order.world_size} processes"
            f" with schedule.accumulate={order.accumulate}; it must be a multiple of {parts}"
        )
    if order.batch_size > order.samples and order.rank == 0:
        log.warning(
            "schedule.batch_size=%d: there are %d samples to train on, so a batch holds each of them %.3g"
            " times; one of at most %d holds none twice",
            *(order.batch_size, order.samples, order.batch_size / order.samples, order.samples),
        )
    return TrainingLoader(dataset, transform, order, iterations, workers)


def _collate(samples: Sequence[tuple[Sample | None, list[str]]]) -> tuple[Batch | None, list[str]]:
    faults = [fault for _, sample_faults in samples for fault in sample_faults]
    whole = [sample for sample, _ in samples if sample is not None]
    if len(whole) < len(samples):
        return None, faults
    bands = whole[0].image.shape[2]
    image = np.empty(
        (len(whole), bands, *whole[0].label.shape), np.result_type(*(sample.image.dtype for sample in whole))
    )
    for planes, sample in zip(image, whole, strict=True):
        pixels = sample.image.astype(image.dtype, copy=False)
        cv2.split(pixels, list(planes))  # six times faster than permute and copy
    label = torch.from_numpy(np.stack([sample.label for sample in whole]))
    names = [sample.name for sample in whole]
    return Batch(torch.from_numpy(image), label, names, whole[0].bands), faults


def _init_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the workers are the threads
    signals.ignore_group_signals()
