"""The stream of batches is one and the same for any workers, processes, accumulation and interruption."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from segkit.data import transforms
from segkit.data.datasets import shapes
from segkit.data.label_map import DataError
from segkit.data.loaders import SampleOrder, TrainingLoader
from segkit.types import Sample

SCENES = shapes.build("train", size=40, train_scenes=7)
NOISE = [{"name": "CLAHE", "p": 0.5}, {"name": "GaussNoise", "p": 0.5}, {"name": "RandomFog", "p": 0.3}]
TRANSFORM = transforms.build(crop_size=32, base_size=40, rotation=5, albumentations=NOISE)
END = 9  # iterations of 4 samples: five epochs of 7


class Broken:
    """Reads its index as an image; some cannot be read."""

    name = "broken"

    def __init__(self, bad, on_error="skip"):
        self.bad, self.on_error = bad, on_error

    def __len__(self):
        return 6

    def read(self, index):
        if index in self.bad:
            raise DataError("unreadable", f"file{index}.png", "not an image", "fetch it again")
        return Sample(np.full((4, 4, 3), index, np.uint8), np.zeros((4, 4), np.uint8), str(index))


def batches(dataset=SCENES, transform=TRANSFORM, **change):
    return list(loader(dataset, transform, **change))


def loader(dataset=SCENES, transform=TRANSFORM, *, iterations=range(END), workers=0, share=(0, 1), **order):
    settings = {"seed": 3, "batch_size": 4, "rank": share[0], "world_size": share[1]} | order
    made = SampleOrder(len(dataset), **settings)
    return TrainingLoader(dataset, transform, made, iterations=iterations, workers=workers)


def join_batches(parts):
    return torch.cat([batch.image for batch in parts]), torch.cat([batch.label for batch in parts])


@pytest.fixture(scope="module")
def reference():
    return batches()


def assert_same(parts, expected):
    for ours, theirs in zip(join_batches(parts), join_batches(expected), strict=True):
        assert torch.equal(ours, theirs)
    assert [n for batch in parts for n in batch.names] == [n for batch in expected for n in batch.names]


def test_batch_is_uint8_with_channels_first(reference):
    assert reference[0].image.shape == (4, 3, 32, 32)
    assert reference[0].label.shape == (4, 32, 32)
    assert reference[0].image.dtype == reference[0].label.dtype == torch.uint8
    sample = TRANSFORM(
        SCENES.read(SampleOrder(7, 3, 4).sample_at(0).sample), SampleOrder(7, 3, 4).sample_at(0).seed
    )
    np.testing.assert_array_equal(reference[0].image[0].permute(1, 2, 0), sample.image)


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize(("workers", "start"), [(1, 0), (2, 0), (4, 0), (0, 1), (2, 4), (0, 8)])
def test_batches_are_equal_for_any_workers_and_after_resuming(reference, workers, start):
    assert_same(batches(workers=workers, iterations=range(start, END)), reference[start:])


@pytest.mark.medium
@pytest.mark.parametrize("change", [{"workers": 1}, {"accumulate": 2}, {"drop_last": True}])
def test_ranks_and_micro_batches_together_see_the_order_of_one(reference, change):
    expected = batches(drop_last=True) if "drop_last" in change else reference  # one batch of each epoch of 7
    assert len({name for batch in expected for name in batch.names}) == 7
    assert_same(batches(**change), expected)
    parts = [batches(share=(rank, 2), **change) for rank in (0, 1)]
    assert_same([batch for pair in zip(*parts, strict=True) for batch in pair], expected)
    assert_same(batches(iterations=range(2, END), **change), expected[2:])


def test_each_epoch_has_each_sample_once_in_a_new_order():
    order = SampleOrder(samples=50, seed=1, batch_size=4)
    epochs = [[order.sample_at(epoch * 50 + place).sample for place in range(50)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_drop_last_leaves_out_other_samples_in_each_epoch():
    order = SampleOrder(samples=50, seed=1, batch_size=8, drop_last=True)
    whole = SampleOrder(samples=50, seed=1, batch_size=8)
    epochs = [
        [draw for step in range(6) for draw in order.batches(6 * epoch + step)[0]] for epoch in range(9)
    ]
    assert all(len({draw.sample for draw in epoch}) == 48 for epoch in epochs)
    left_out = [set(range(50)) - {draw.sample for draw in epoch} for epoch in epochs]
    assert len({tuple(sorted(two)) for two in left_out}) > 4
    for number, epoch in enumerate(epochs):  # the epoch's own order, as it is without dropping
        assert epoch == [whole.sample_at(50 * number + place) for place in range(48)]


def test_set_smaller_than_a_batch_trains_with_a_warning(caplog):
    small = batches(batch_size=20, drop_last=True, iterations=range(2))
    assert [len(batch.names) for batch in small] == [20, 20]
    assert set(small[0].names) == set(SCENES.names)
    assert "schedule.batch_size=20: there are 7 training samples" in caplog.text


@pytest.mark.medium
def test_spawned_and_forked_workers_give_equal_batches(reference):
    """As on macOS, where data set and transform travel pickled."""
    made = loader(workers=1)
    made.loader.multiprocessing_context = "spawn"
    assert_same(list(made), reference)


def test_sample_seeds_differ_between_epochs_and_runs():
    draws = [SampleOrder(50, seed, 4).sample_at(position) for seed in (0, 1) for position in range(500)]
    assert len({draw.seed for draw in draws}) == 1000


@pytest.mark.parametrize(("share", "accumulate"), [((0, 3), 1), ((0, 2), 4), ((0, 1), 3)])
def test_batch_that_cannot_be_divided_evenly_is_refused(share, accumulate):
    with pytest.raises(
        ValueError, match=r"batch_size=4: cannot be divided evenly by . processes .* multiple of"
    ):
        batches(share=share, accumulate=accumulate)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_sample_stops_with_file_and_fix(workers):
    with pytest.raises(ValueError, match=r"file2.png: not an image; fetch it again \(data.on_error=skip"):
        batches(Broken({2}, "stop"), lambda sample, seed: sample, workers=workers)


@pytest.mark.medium
@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_samples_are_replaced_counted_and_logged(workers, caplog):
    broken = loader(
        Broken({2, 3}),
        lambda sample, seed: sample,
        seed=0,
        batch_size=3,
        iterations=range(4),
        workers=workers,
    )
    names = [name for batch in broken for name in batch.names]
    asked = [SampleOrder(6, 0, 3).sample_at(position).sample for position in range(12)]
    assert names == [str({2: 4, 3: 4}.get(sample, sample)) for sample in asked]
    assert broken.skipped == 6  # in each of two epochs: 2, then 3 in its place, and 3
    assert sorted(re.findall(r"file\d", caplog.text)) == ["file2", "file3"]  # each is reported once


def test_set_without_readable_samples_stops_when_skipping():
    with pytest.raises(ValueError, match="not an image"):
        batches(Broken(set(range(6))), lambda sample, seed: sample)
