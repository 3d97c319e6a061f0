"""The embedded data set: endless, seeded, and with every class in its share."""

from __future__ import annotations

import numpy as np
import pytest

from segkit.data.datasets import shapes


def test_scene_depends_on_seed_split_and_index_only():
    first, again = shapes.build("train"), shapes.build("train")
    again.read(9)
    for ours, theirs in zip(first.read(5), again.read(5), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_scenes_differ_between_indices_splits_and_seeds():
    sets = [shapes.build("train"), shapes.build("val"), shapes.build("train", seed=1)]
    images = [dataset.read(index).image.tobytes() for dataset in sets for index in range(20)]
    assert len(set(images)) == 60


@pytest.mark.parametrize("size", [128, [96, 160]])
def test_every_class_is_frequent_and_borders_are_thin(size):
    dataset = shapes.build("val", size=size)
    labels = [dataset.read(index).label for index in range(60)]
    share = np.bincount(np.ravel(labels), minlength=256) / np.size(labels)
    assert dataset.table.num_classes >= 8
    assert (share[: dataset.table.num_classes] > 0.01).all()
    assert 0.02 < share[255] < 0.18
    assert share[dataset.table.num_classes : 255].sum() == 0
    assert labels[0].shape == ((128, 128) if size == 128 else (96, 160))


@pytest.mark.medium
def test_color_alone_does_not_determine_the_class():
    """The nearest mean color of a class, learned from 80 scenes, is right in less than half of 80 others."""
    dataset = shapes.build("train")
    samples = [dataset.read(index) for index in range(160)]
    means = [np.concatenate([s.image[s.label == k] for s in samples[:80]]).mean(0) for k in range(1, 10)]
    right = []
    for sample in samples[80:]:
        thing = (sample.label > 0) & (sample.label < 255)
        distance = np.linalg.norm(sample.image[thing][:, None].astype(float) - np.array(means), axis=2)
        right.append(distance.argmin(1) + 1 == sample.label[thing])
    assert np.concatenate(right).mean() < 0.5
