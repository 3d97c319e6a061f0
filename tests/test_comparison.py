"""Paired comparison of two results on the same images."""

import json

import numpy as np
import pytest
from test_score_intervals import find_intervals, simulate

from segkit.evaluation import comparison, metrics
from segkit.evaluation.comparison import compare_results, format_comparison, read_result

CLASSES = [f"c{n}" for n in range(12)]


def write(folder, counts, *, names=None, classes=CLASSES, absent="exclude"):
    folder.mkdir()
    content = {
        "class_iou": dict.fromkeys(classes, 0.5),
        "protocol": {"absent": absent},
        "settings": {"data": {}},
    }
    (folder / "result.json").write_text(json.dumps(content))
    names = names or [f"image{n}" for n in range(len(counts))]
    np.savez(
        folder / comparison.FILE,
        names=np.array(names),
        counts=counts.astype(np.int64),
        predictions=[],
        format="raw",
    )
    return read_result(folder)


def improve(counts, share):
    """Return the counts after a share of the missed pixels of every image is corrected."""
    better = counts.copy()
    correct = np.rint(share * (counts[:, 1] - counts[:, 0]))
    better[:, 0] += correct
    better[:, 2] += correct
    return better


def test_equal_results_are_not_distinguishable(tmp_path):
    counts = simulate(np.random.default_rng(0), 40)
    found = compare_results(write(tmp_path / "a", counts), write(tmp_path / "b", counts))
    assert not any(difference.is_distinguishable for difference in (*found.scores, *found.classes))
    assert all(change == 0 for _, change in found.images)


def test_small_differences_show_in_pairs_but_not_alone(tmp_path):
    counts = simulate(np.random.default_rng(0), 100)
    better = improve(counts, 0.05)
    found = compare_results(write(tmp_path / "a", counts), write(tmp_path / "b", better))
    accuracy = next(difference for difference in found.scores if difference.name == "pixAcc")
    assert accuracy.is_distinguishable
    alone = [find_intervals(c, "exclude")["pixAcc"] for c in (counts, better)]
    assert alone[0].high > alone[1].low  # the intervals of the two scores overlap


def test_images_are_matched_by_name_and_sorted_by_change(tmp_path):
    counts = simulate(np.random.default_rng(0), 30)
    changed = counts.copy()
    changed[7, 0] = 0
    names = [f"image{n}" for n in range(30)]
    found = compare_results(
        write(tmp_path / "a", counts), write(tmp_path / "b", changed[::-1], names=names[::-1])
    )
    assert found.images[0][0] == "image7"
    assert found.images[0][1] < 0
    assert all(change == 0 for _, change in found.images[1:])
    lines = format_comparison(found, "first", "second").splitlines()
    assert lines[-1].endswith("image7")


@pytest.mark.medium
def test_intervals_of_differences_cover_the_true_difference(tmp_path):
    population = simulate(np.random.default_rng(0), 100_000)
    truth = [
        float(metrics.score_pixels(c.sum(0), absent="exclude")["mIoU"])
        for c in (population, improve(population, 0.1))
    ]
    covered = []
    for seed in range(200):
        counts = simulate(np.random.default_rng([3, seed]), 200)
        pair = [
            comparison.StoredResult(tmp_path, [str(n) for n in range(200)], c, CLASSES, "exclude")
            for c in (counts, improve(counts, 0.1))
        ]
        interval = compare_results(*pair).scores[1].interval
        covered.append(interval.low <= truth[1] - truth[0] <= interval.high)
    assert 0.9 <= np.mean(covered) <= 0.99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": [f"other{n}" for n in range(9)]}, "not of the same images: 18 are in one alone"),
        ({"classes": CLASSES[::-1]}, "cannot be compared: classes"),
        ({"absent": "zero"}, "cannot be compared: absent exclude and zero"),
    ],
)
def test_results_of_other_data_are_refused(tmp_path, change, message):
    counts = simulate(np.random.default_rng(0), 9)
    first, second = write(tmp_path / "a", counts), write(tmp_path / "b", counts, **change)
    with pytest.raises(ValueError, match=message):
        compare_results(first, second)


def test_a_damaged_result_is_refused(tmp_path):
    write(tmp_path / "a", simulate(np.random.default_rng(0), 9))
    (tmp_path / "a" / comparison.FILE).write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"is not a result of test_seg\.py that can be compared"):
        read_result(tmp_path / "a")
