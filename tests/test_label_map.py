"""Label tables against the data sets' own software, and by hand."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from segkit.data.label_map import LabelMap, load_builtin_label_map


@pytest.fixture
def pets(tmp_path):
    file = tmp_path / "classes.csv"
    file.write_text('id,name,color,ignore\n3,cat,#ff0000,\n7,dog,0 255 0,\n9,unsure,"(0, 0, 255)",yes\n')
    return LabelMap.read(file, "folder")


def table_of(tmp_path, text):
    file = tmp_path / "classes.csv"
    file.write_text(text)
    return LabelMap.read(file, "folder")


def test_classes_are_the_entries_not_ignored_in_table_order(pets):
    assert pets.names == ["cat", "dog"]
    assert pets.colors.tolist() == [[255, 0, 0], [0, 255, 0]]
    assert LabelMap.from_plain(json.loads(json.dumps(pets.to_plain()))) == pets
    for kind in (np.uint8, np.uint16, np.int64, np.uint64, np.float32):
        assert pets.encode(np.array([[3, 7, 9]], kind), "m").tolist() == [[0, 1, 255]]
    colors = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert pets.encode(colors, "m").tolist() == [[0, 1, 255]]
    assert pets.decode(np.array([[0, 1, 255]], np.uint8)).tolist() == [[3, 7, 9]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_unknown_value_is_reported_with_file_count_and_row(pets, dtype):
    message = (
        r"dir/m.png: 4 \(2 pixels\), 200 \(1 pixel\) not in .*classes.csv \(ids 3, 7, 9\); add .*`4,NAME,,`"
    )
    with pytest.raises(ValueError, match=message):
        pets.encode(np.array([[3, 4, 4, 200]], dtype), "dir/m.png")


@pytest.mark.parametrize("unknown", [2, 255, 65535, [1, 2, 3]])
@pytest.mark.parametrize("choice", [0, 1])
def test_suggested_row_makes_the_mask_readable(tmp_path, unknown, choice):
    """The first row makes it a class, the second ignores it."""
    mask, text = np.array([[0, 0, 1]], np.uint16), "id,name,color\n0,a,#000000\n1,b,#0000ff\n"
    mask[0, 1] = 0 if isinstance(unknown, list) else unknown
    if isinstance(unknown, list):
        mask = np.array([[[0, 0, 0], unknown, [0, 0, 255]]], np.uint8)
    with pytest.raises(ValueError, match=r"1 pixel.*under the header") as caught:
        table_of(tmp_path, text).encode(mask, "m.png")
    header = re.search(r"under the header (.*?)\)", str(caught.value))[1]
    row = re.findall("`(.*?)`", str(caught.value))[choice]
    table = table_of(tmp_path, text.replace("id,name,color", header) + row)
    assert table.encode(mask, "m.png").tolist() == [[0, 255 if choice else 2, 1]]


def test_negative_id_may_be_ignored(tmp_path):
    table = table_of(tmp_path, "id,name,ignore\n-1,unlabeled,yes\n0,a,\n1,b,\n")
    for kind in (np.int8, np.int16, np.int32, np.float32):
        assert table.encode(np.array([[-1, 0, 1]], kind), "m").tolist() == [[255, 0, 1]]
    assert table.decode(np.array([[0, 1, 255]], np.uint8)).tolist() == [[0, 1, 255]]
    assert LabelMap.from_plain(table.to_plain()) == table
    for values in ([-2], [np.nan], [np.inf], [0.5], [1 << 17], np.array([1 << 63], np.uint64)):
        with pytest.raises(ValueError, match="1 pixel"):
            table.encode(np.array([values]), "m")
    with pytest.raises(ValueError, match=r"classes.csv: negative ids must be ignored; ids of classes are 0"):
        table_of(tmp_path, "id,name\n-1,unlabeled\n0,a\n")


def test_shared_color_is_refused_only_for_color_masks(tmp_path):
    table = table_of(tmp_path, "id,name,color\n0,a,#000001\n1,b,#000001\n")
    assert table.encode(np.array([[1]], np.uint8), "m").tolist() == [[1]]
    with pytest.raises(ValueError, match="gives #000001 to two classes"):
        table.encode(np.zeros((1, 1, 3), np.uint8), "m")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("identity,name\n", "first line must name the columns id,name"),
        ("id,name\nx,cat\n", "line 2: id 'x' is not a whole number"),
        ("id,name\n70000,cat\n", "id 70000 does not fit"),
        ("id,name\n1,cat\n1,dog\n", r"ids \[1\] are repeated"),
        ("id,name,ignore\n1,cat,yes\n", "0 classes are not ignored"),
        ("id,name,ignore\n1,cat,perhaps\n", "ignore='perhaps': must be yes, no or empty"),
        ("id,name\n1,cat,,yes\n", "line 2: more cells than columns in the first line"),
        ("id,name,color\n1,cat,red\n", "color 'red' is neither #rrggbb nor three numbers"),
        ("id,name\n" + "".join(f"{i},c\n" for i in range(32768)), r"32768 classes .* must be 1 to 32767"),
    ],
)
def test_invalid_class_table_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        table_of(tmp_path, text)


def test_missing_class_table_error_lists_the_columns(tmp_path):
    with pytest.raises(ValueError, match=r"no such class table.*columns id,name,color,ignore"):
        LabelMap.read(tmp_path / "classes.csv", "folder")


def test_table_without_colors_gets_distinct_ones(tmp_path):
    table = table_of(tmp_path, "id,name\n" + "".join(f"{i},c{i}\n" for i in range(40)))
    assert len(np.unique(table.colors, axis=0)) == 40


def test_cityscapes_agrees_with_cityscapesscripts():
    official = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    table = load_builtin_label_map("cityscapes")
    raw = np.array([[label.id for label in official if label.id >= 0]], np.uint8)
    expected = [label.trainId for label in official if label.id >= 0]
    assert table.encode(raw, "m")[0].tolist() == expected
    scored = sorted(
        (label for label in official if 0 <= label.trainId < 255), key=lambda label: label.trainId
    )
    assert table.names == [label.name for label in scored]
    assert table.categories == [label.category for label in scored]
    assert table.colors.tolist() == [list(label.color) for label in scored]


def test_ade20k_ids_start_at_one_and_zero_is_ignored():
    table = load_builtin_label_map("ade20k")
    raw = np.arange(151, dtype=np.uint8)[None]
    assert table.encode(raw, "m")[0].tolist() == [255, *range(150)]
    assert table.decode(np.arange(150, dtype=np.uint8)).tolist() == list(range(1, 151))
    assert (table.names[0], table.names[149]) == ("wall", "flag")
    assert len({entry.name for entry in table.entries}) == 151
    with pytest.raises(ValueError, match=r"151 .* not in the class table of ade20k \(ids 0..150\)"):
        table.encode(raw + 1, "m")


def test_ade20k_names_are_first_synonyms():
    table = load_builtin_label_map("ade20k")
    full = (  # objectInfo150.txt of the data set, where the first synonym is of several words
        "45 chest of drawers, 57 pool table, 59 screen door, 65 coffee table, 74 kitchen island, "
        "76 swivel chair, 79 arcade machine, 90 television receiver, 92 dirt track, 106 conveyer belt, "
        "110 swimming pool, 124 trade name, 137 traffic light, 142 crt screen"
    )
    assert ", ".join(f"{entry.id} {entry.name}" for entry in table.entries if " " in entry.name) == full
    assert table.entries[131].name == "screen"
