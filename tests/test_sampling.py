"""Repeat factor sampling and class-uniform crops: the stream of samples, exact under any division."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import segkit
from conftest import write_image
from segkit.data import sampling, transforms
from segkit.data.datasets import camvid, shapes
from segkit.data.label_map import DataError
from segkit.data.loaders import SampleOrder
from segkit.data.sampling import RepeatFactors
from segkit.types import IGNORE_INDEX, Sample

SCENES = shapes.build("train", size=40, train_scenes=7)


def lvis_factors(classes, num_classes, threshold):
    """The definition, one image and class after the other."""
    share = [sum(c in present for present in classes) / len(classes) for c in range(num_classes)]
    factors = []
    for present in classes:
        own = [max(1.0, math.sqrt(threshold / share[c])) for c in present]
        factors.append(max(own, default=1.0))
    return factors


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 12), st.floats(1e-4, 1.0))
def test_factors_are_those_of_lvis(seed, images, num_classes, threshold):
    draw = np.random.default_rng(seed)
    classes = [np.flatnonzero(draw.random(num_classes) < draw.random()) for _ in range(images)]
    frequency = sampling.compute_class_frequency(classes, num_classes)
    found = sampling.compute_repeat_factors(classes, frequency, threshold)
    np.testing.assert_allclose(found, lvis_factors(classes, num_classes, threshold), rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 300), st.floats(1, 50))
def test_counts_add_up_and_are_the_expectation_rounded(seed, samples, largest):
    draw = np.random.default_rng(seed)
    factors = draw.uniform(1, largest, samples)
    expected = factors * samples / factors.sum()
    counts = RepeatFactors(factors).draw_counts(draw)
    assert counts.sum() == samples
    assert (counts >= np.floor(expected - 1e-9)).all()
    assert (counts <= np.ceil(expected + 1e-9)).all()


def test_counts_are_on_average_in_proportion_to_the_factors():
    factors = np.array([1.0, 3.0, 1.0, 1.5, 1.0, 2.5])
    draw, epochs = np.random.default_rng(0), 4000
    mean = sum(RepeatFactors(factors).draw_counts(draw) for _ in range(epochs)) / epochs
    np.testing.assert_allclose(mean, factors * 0.6, atol=0.03)  # four standard deviations


def test_repeated_samples_have_their_own_seeds():
    order = SampleOrder(20, 5, 4, repeat_factors=RepeatFactors(np.array([10.0, *[1.0] * 19])))
    draws = [order.sample_at(position) for position in range(20 * 30)]
    assert len({draw.seed for draw in draws}) == len(draws)
    assert sum(draw.sample == 0 for draw in draws) == pytest.approx(30 * 20 * 10 / 29, rel=0.1)
    plain = SampleOrder(20, 5, 4)  # the first of an epoch is augmented as without repetition
    first = {draw.sample: draw.seed for draw in map(plain.sample_at, range(20))}
    assert {draw.seed for draw in draws[:20]} >= {first[draw.sample] for draw in draws[:20]}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_stream_is_divided_and_resumed_exactly_for_random_settings(seed):
    """Oracle: one rank that takes the positions one by one."""
    draw = random.Random(seed)
    ranks, accumulate, share = draw.randint(1, 4), draw.randint(1, 3), draw.randint(1, 5)
    samples, drop_last = draw.randint(1, 90), draw.random() < 0.5
    factors = RepeatFactors(np.random.default_rng(seed).uniform(1, 6, samples)) if seed % 3 else None
    batch_size = ranks * accumulate * share
    common = {"drop_last": drop_last, "repeat_factors": factors}
    one = SampleOrder(samples, seed, batch_size if drop_last else 1, **common)
    for iteration in random.Random(seed).sample(range(200), 5):  # each alone, as after a resume
        expected = [one.sample_at(iteration * batch_size + place) for place in range(batch_size)]
        parts = [
            SampleOrder(samples, seed, batch_size, accumulate, rank, ranks, **common).batches(iteration)
            for rank in range(ranks)
        ]
        found = [parts[rank][part] for part in range(accumulate) for rank in range(ranks)]
        assert [sample for part in found for sample in part] == expected


# ---- classes of the masks


@pytest.fixture
def road_scenes(tmp_path):
    """CamVid's layout with 12 random masks; class 10 is in a single one."""
    draw = np.random.default_rng(0)
    for index in range(12):
        mask = draw.choice([0, 1, 2, 3, 11], (12, 16), p=[0.5, 0.2, 0.2, 0.05, 0.05]).astype(np.uint8)
        if index % 3 == 0:
            mask[0, :4] = 9
        if index == 5:
            mask[3, 3] = 10
        write_image(tmp_path / f"annotations/train/{index:02}.png", mask)
        write_image(tmp_path / f"images/train/{index:02}.jpg", np.zeros((12, 16, 3), np.uint8))
    return tmp_path


def naive_classes(dataset):
    return [set(np.unique(dataset.read(i).label).tolist()) - {IGNORE_INDEX} for i in range(len(dataset))]


def test_classes_are_those_of_the_masks(road_scenes):
    for dataset in (camvid.build("train", root=str(road_scenes)), SCENES):
        assert [set(ids.tolist()) for ids in sampling.list_classes(dataset)] == naive_classes(dataset)


def test_unreadable_mask_stops_or_has_no_classes(road_scenes):
    (road_scenes / "annotations" / "train" / "03.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"03.png"):
        sampling.list_classes(camvid.build("train", root=str(road_scenes)))
    classes = sampling.list_classes(camvid.build("train", root=str(road_scenes), on_error="skip"))
    assert len(classes[3]) == 0
    assert all(len(ids) for index, ids in enumerate(classes) if index != 3)


def test_note_names_the_rarest_classes_and_the_effect(road_scenes):
    dataset = camvid.build("train", root=str(road_scenes))
    assert sampling.build_repeat_factors(dataset, "uniform", 0.001) is None
    found = sampling.build_repeat_factors(dataset, "repeat_factor", 0.75)
    assert found.factors[5] == pytest.approx(3.0)  # sqrt(0.75 / (1 / 12))
    names = dataset.table.names
    assert f"by their share of the images: {names[10]} 8.3%, {names[9]} 33.3%" in found.note
    assert "41.7% of the images are drawn more often, up to 3 times as often as others" in found.note
    found = sampling.build_repeat_factors(dataset, "repeat_factor", 0.001)
    assert "0.0% of the images are drawn more often, up to 1 times" in found.note


@pytest.mark.medium
def test_training_draws_rare_classes_more_often(road_scenes):
    words = ["data=camvid", f"data.root={road_scenes}", "model=deeplabv3_demo", "augment.crop_size=8"]
    words += ["schedule.batch_size=6", "loader.workers=0"]

    def count(*more):
        chosen = segkit.compose_settings("train", [*words, *more])
        batches = segkit.training_batches(chosen, segkit.build_dataset(chosen), iterations=range(120))
        return sum(batch.names.count("05") for batch in batches)

    assert count() == 60  # epochs of 12 images
    factors = [3.0, *[1.5] * 4, *[1.0] * 7]
    repeated = count("loader.sampling=repeat_factor", "loader.repeat_threshold=0.75")
    assert repeated == pytest.approx(60 * 12 * 3 / sum(factors), abs=11)  # three standard deviations


# ---- crops


def draw_labels(label, count, **settings):
    transform, image = transforms.build(**settings), np.zeros((*label.shape, 3), np.uint8)
    return [transform(Sample(image, label, ""), seed).label for seed in range(count)]


@pytest.mark.parametrize("resize", ["pil_bilinear", "opencv_linear"])
@pytest.mark.parametrize("scales", [(1, 1), (0.8, 1.6)])
def test_class_uniform_crop_has_a_rare_class_as_often_as_others(resize, scales):
    label = np.zeros((90, 120), np.uint8)
    label[:, 60:] = 1
    label[70:73, 8:11] = 2  # three pixels wide, so that the nearest neighbor at 0.8 has some
    label[:20] = IGNORE_INDEX
    share = {}
    for probability in (0.0, 0.6, 1.0):
        settings = {"crop_size": 16, "scales": scales, "resize": resize, "class_uniform_crop": probability}
        results = draw_labels(label, 500, **settings)
        share[probability] = np.mean([(result == 2).any() for result in results])
        assert {result.shape for result in results} == {(16, 16)}
    assert share[0.0] < 0.1
    assert share[1.0] == pytest.approx(1 / 3, abs=0.09)  # other crops of the first class also have some
    assert share[0.6] == pytest.approx(0.4 * share[0.0] + 0.6 * share[1.0], abs=0.07)


def test_class_uniform_crop_always_has_the_only_class():
    """At scale 1, flipped or not, in both libraries; the pixel is anywhere in the crop."""
    label = np.full((40, 50), IGNORE_INDEX, np.uint8)
    label[31, 7] = 0
    places = set()
    settings = {"crop_size": (6, 5), "scales": (1, 1), "class_uniform_crop": 1.0}
    for resize in ("pil_bilinear", "opencv_linear"):
        for result in draw_labels(label, 300, resize=resize, **settings):
            ((row, column),) = np.argwhere(result == 0)
            places.add((row, column))
    assert places == {(row, column) for row in range(6) for column in range(5)}


def test_class_uniform_crop_of_unlabeled_image_is_uniform():
    label = np.full((40, 50), IGNORE_INDEX, np.uint8)
    (result,) = draw_labels(label, 1, crop_size=10, scales=(1, 1), class_uniform_crop=1.0)
    assert result.shape == (10, 10)
