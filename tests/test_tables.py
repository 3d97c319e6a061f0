from __future__ import annotations

import numpy as np
import pytest

from segkit.visualize import tables

NAN = float("nan")


def test_small_class_table_format():
    text = tables.format_class_table(["sky", "a b"], {"IoU": [0.5, NAN], "accuracy": [1.0, 0.123456]})
    assert text.splitlines() == [
        "class    IoU  accuracy",
        "sky    50.00    100.00",
        "a b        -     12.35",
    ]


@pytest.mark.parametrize("num_classes", [1, 2, 11, 19, 20, 21, 60, 150])
@pytest.mark.parametrize("heads", [["IoU"], ["IoU", "recall", "precision", "pixels"]])
def test_class_table_fits_100_columns(num_classes, heads):
    names = [f"class number {k} with a rather long name;it goes on and on" for k in range(num_classes)]
    columns = {head: [(k * 4 + i) / 10000 for k in range(num_classes)] for i, head in enumerate(heads)}
    text = tables.format_class_table(names, columns)
    assert max(map(len, text.splitlines())) <= 100
    cells = text.split()
    for column in columns.values():
        for value in column:
            assert f"{100 * value:.2f}" in cells


def test_class_table_columns_run_downwards():
    names = [f"n{k}" for k in range(21)]
    lines = tables.format_class_table(names, {"IoU": [k / 100 for k in range(21)]}).splitlines()
    first = [line.split()[0] for line in lines[1:]]
    assert first == names[: len(first)]


def test_markdown_cells_are_escaped():
    assert tables.format_markdown_table(["a"], [["x|y\nz"]]) == "| a |\n| --- |\n| x\\|y z |"


def test_worst_and_best_classes_leave_out_nan():
    assert tables.worst_and_best_classes([0.5, NAN, 0.1, 0.9, 0.3], 1) == [2, 3]
    assert tables.worst_and_best_classes([0.5, NAN, 0.1], 2) == [2, 0]


def test_most_confused_pairs_leave_out_the_diagonal():
    counts = np.array([[100, 1, 0], [7, 3, 0], [0, 2, 50]])
    assert tables.most_confused_pairs(counts, 2) == [(1, 0, 7, 0.7), (2, 1, 2, 2 / 52)]
    assert len(tables.most_confused_pairs(counts, 9)) == 3
