"""Endless stream of training batches that does not depend on workers, ranks or interruptions.

Position p of the stream is place ``p % n`` of epoch ``p // n``, where an epoch has n samples. The order of an
epoch follows from (seed, epoch), the augmentation of a sample from (seed, epoch, sample), and if an epoch has
the sample several times, from the number of the repetition.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from segkit.data.label_map import DataError
from segkit.data.sampling import RepeatFactors
from segkit.data.transforms import Transform
from segkit.runtime import signals
from segkit.runtime.seeds import seed_of
from segkit.types import Batch, Dataset, Sample

log = logging.getLogger("segkit")


class SampleSeed(NamedTuple):
    """A sample of the stream, and the seed of its augmentation."""

    sample: int
    seed: int


class SampleOrder(NamedTuple):
    """Order of the samples, and their division into batches, for one rank.

    Iteration t of the optimizer takes positions ``t * batch_size`` onwards, in ``accumulate`` micro-batches,
    of which each rank takes its contiguous share.
    """

    samples: int
    seed: int
    batch_size: int  # over all ranks and micro-batches
    accumulate: int = 1
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False  # leave out the samples that fill no batch; others in each epoch
    repeat_factors: RepeatFactors | None = None  # how often an epoch has each sample; None: once

    @property
    def samples_per_epoch(self) -> int:
        """Number of samples in an epoch; all of them if there are fewer than a batch."""
        full_batches = self.samples - self.samples % self.batch_size
        if self.drop_last and full_batches:
            return full_batches
        return self.samples

    def batches(self, iteration: int) -> list[list[SampleSeed]]:
        """Return the micro-batches of one iteration on this rank."""
        share = self.batch_size // (self.accumulate * self.world_size)
        batches = []
        for part in range(self.accumulate):
            first = iteration * self.batch_size + (part * self.world_size + self.rank) * share
            batches.append([self.sample_at(position) for position in range(first, first + share)])
        return batches

    def sample_at(self, position: int) -> SampleSeed:
        """Return index and seed of the sample at a position of the endless stream."""
        epoch, place = divmod(position, self.samples_per_epoch)
        samples, repetitions = _epoch_order(self.samples, self.seed, epoch, self.repeat_factors)
        index, repetition = int(samples[place]), int(repetitions[place])
        if repetition:
            return SampleSeed(index, seed_of(self.seed, epoch, index, repetition))
        return SampleSeed(index, seed_of(self.seed, epoch, index))


@lru_cache(maxsize=2)  # a batch may span two epochs
def _epoch_order(
    samples: int, seed: int, epoch: int, factors: RepeatFactors | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples of an epoch in order, and for each how often the epoch has it in rows before."""
    random = np.random.default_rng(seed_of(seed, epoch))
    if factors is None:
        return random.permutation(samples), np.zeros(samples, np.int64)
    counts = factors.draw_counts(random)
    rows = np.repeat(np.arange(samples), counts)
    repetitions = np.arange(samples) - np.repeat(np.cumsum(counts) - counts, counts)
    order = random.permutation(samples)
    return rows[order], repetitions[order]


class _BatchSampler:
    """Batch sampler of a DataLoader over a range of iterations."""

    def __init__(self, order: SampleOrder, iterations: range):
        self.order, self.iterations = order, iterations

    def __len__(self) -> int:
        return len(self.iterations) * self.order.accumulate

    def __iter__(self) -> Iterator[list[SampleSeed]]:
        for iteration in self.iterations:
            yield from self.order.batches(iteration)


class _SampleReader:
    """Reads and augments samples in a worker; returns error messages beside the sample, or instead of it."""

    def __init__(self, dataset: Dataset, transform: Transform):
        self.dataset, self.transform = dataset, transform

    def __getitem__(self, chosen: SampleSeed) -> tuple[Sample | None, list[str]]:
        errors: list[str] = []
        tries = 1 if self.dataset.on_error == "stop" else len(self.dataset)
        for step in range(tries):  # the next sample replaces one that cannot be read
            try:
                sample = self.dataset.read((chosen.sample + step) % len(self.dataset))
            except DataError as error:
                errors.append(str(error))
                continue
            try:
                return self.transform(sample, chosen.seed), errors
            except ValueError as error:  # the settings do not fit these images
                return None, [f"{sample.name}: {error}"]
        return None, [f"{errors[-1]} (data.on_error=skip leaves such samples out)"]


class TrainingLoader:
    """Augmented training batches of one rank; ``skipped`` counts samples that were replaced.

    Args:
        dataset: the samples.
        transform: called with each sample and its seed; pickled for workers that are spawned.
        order: of the samples, and their division into batches.
        iterations: of the optimizer, ``range(start, end)``; each has ``order.accumulate`` micro-batches.
        workers: processes that read; 0 reads in this one.

    Raises:
        ValueError: the batch cannot be divided evenly; while iterating, a sample cannot be read.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Transform,
        order: SampleOrder,
        *,
        iterations: range,
        workers: int = 0,
    ):
        _check_batch_size(order)
        self.order, self.skipped = order, 0
        self.logged: set[str] = set()  # each error is logged once
        self.loader = DataLoader(
            _SampleReader(dataset, transform),  # type: ignore[arg-type]
            batch_sampler=_BatchSampler(order, iterations),  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=init_worker,
            multiprocessing_context=choose_start_method(workers),
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        with warnings.catch_warnings():  # workers use no lock that a thread of their parent may hold
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            batches = iter(self.loader)
        for batch, errors in batches:
            if batch is None:
                raise ValueError(errors[-1])
            for error in errors:
                self.skipped += 1
                if error not in self.logged:
                    log.warning("skipped a sample (%d so far): %s", self.skipped, error)
                self.logged.add(error)
            yield batch


def choose_start_method(workers: int) -> str | None:
    """Return how worker processes start: by fork on Linux, where Python 3.14 has a slower default."""
    if workers and sys.platform == "linux":
        return "fork"
    return None


def _check_batch_size(order: SampleOrder) -> None:
    parts = order.accumulate * order.world_size
    if order.batch_size % parts:
        raise ValueError(
            f"schedule.batch_size={order.batch_size}: cannot be divided evenly by {order.world_size} "
            f"processes with schedule.accumulate={order.accumulate}. Choose a multiple of {parts}"
        )
    if order.batch_size > order.samples and order.rank == 0:
        log.warning(
            "schedule.batch_size=%d: there are %d training samples, so each is %.3g times in a batch. Choose "
            "at most %d to have each at most once",
            *(order.batch_size, order.samples, order.batch_size / order.samples, order.samples),
        )


def _collate(items: Sequence[tuple[Sample | None, list[str]]]) -> tuple[Batch | None, list[str]]:
    """Return the batch of the samples, None if one is missing, and all error messages."""
    errors = [error for _, sample_errors in items for error in sample_errors]
    samples = [sample for sample, _ in items if sample is not None]
    if len(samples) < len(items):
        return None, next(sample_errors for sample, sample_errors in items if sample is None)
    first = samples[0]
    kind = np.result_type(*(sample.image.dtype for sample in samples))
    image = np.empty((len(samples), first.image.shape[2], *first.label.shape), kind)
    for planes, sample in zip(image, samples, strict=True):
        cv2.split(sample.image.astype(kind, copy=False), list(planes))  # six times faster than permute
    label = torch.from_numpy(np.stack([sample.label for sample in samples]))
    names = [sample.name for sample in samples]
    return Batch(torch.from_numpy(image), label, names, first.bands), errors


def init_worker(_: int) -> None:
    """Prepare a worker of a loader: one thread, and deaf to the signals of its process group."""
    cv2.setNumThreads(0)  # the workers are the parallelism
    signals.ignore_group_signals()
