from __future__ import annotations

import cv2
import numpy as np
import pytest

from segkit.visualize import overlays

COLORS = np.array([[10, 20, 30], [200, 100, 0]], np.uint8)
IDS = np.array([[0, 1, 255]], np.uint8)


def test_colorize_paints_classes_and_ignored_pixels():
    painted = overlays.colorize(IDS, COLORS, ignored=(9, 9, 9))
    assert painted.tolist() == [[[10, 20, 30], [200, 100, 0], [9, 9, 9]]]
    assert painted.dtype == np.uint8
    assert (overlays.colorize(IDS.astype(np.int64), COLORS, ignored=(9, 9, 9)) == painted).all()


@pytest.mark.parametrize("bad", [2, 254, -1])
def test_id_without_color_is_refused(bad):
    with pytest.raises(ValueError, match=rf"class id {bad} has no color: the table has 2 \(0..1\)"):
        overlays.colorize(np.array([[0, bad]]), COLORS)


def test_overlay_blends_by_opacity_except_ignored_pixels():
    image = np.full((1, 3, 3), 100, np.uint8)
    mixed = overlays.draw_overlay(image, IDS, COLORS)
    blended = overlays.OPACITY * COLORS + (1 - overlays.OPACITY) * 100
    np.testing.assert_allclose(mixed[0, :2], blended, atol=0.51)  # rounded
    assert mixed[0, 2].tolist() == [100, 100, 100]


def test_error_map_colors_right_wrong_and_ignored():
    drawn = overlays.draw_error_map(np.array([[0, 1, 255]]), np.array([[0, 0, 0]]))
    assert [tuple(p) for p in drawn[0].tolist()] == [overlays.RIGHT, overlays.WRONG, overlays.IGNORED]


@pytest.mark.parametrize(("count", "width"), [(1, 60), (11, 300), (150, 1000)])
def test_legend_has_every_color_and_fits_its_width(count, width):
    colors = np.array([(k, 255 - k, 77) for k in range(count)], np.uint8)
    drawn = overlays.draw_legend([f"class {k}" for k in range(count)], colors, width=width)
    found = {tuple(p) for p in np.unique(drawn.reshape(-1, 3), axis=0).tolist()}
    assert {tuple(c) for c in colors.tolist()} <= found
    assert drawn.shape[1] == max(width, drawn.shape[1])
    assert drawn.shape[1] - width < 80


def test_grid_places_images_of_different_shapes():
    red, blue = np.zeros((20, 40, 3), np.uint8), np.zeros((30, 30, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    drawn = overlays.draw_grid([[red, blue], [blue]], height=60)
    assert drawn.shape == (124, 120 + 4 + 60, 3)
    assert (drawn[:60, :120] == [255, 0, 0]).all()
    assert (drawn[:60, 124:] == [0, 0, 255]).all()
    assert (drawn[64:, :60] == [0, 0, 255]).all()
    assert (drawn[64:, 60:] == 255).all()


def test_grid_has_titles_above_and_a_legend_below():
    drawn = overlays.draw_grid([[np.full((10, 10, 3), 7, np.uint8)]], titles=["image"], height=50)
    assert drawn.shape == (overlays.LINE + 4 + 50, 50, 3)
    assert (drawn[:18] < 128).any(), "the title is written in dark ink"
    with_legend = overlays.add_legend(drawn, [IDS], ["a", "b"], COLORS)
    assert (with_legend[: len(drawn), :50] == drawn).all()
    assert (with_legend[len(drawn) :] == COLORS[1]).all(2).any()
    assert overlays.add_legend(drawn, [IDS[:, 2:]], ["a", "b"], COLORS) is drawn


@pytest.mark.parametrize("num_classes", [2, 11, 41, 150])
def test_confusion_matrix_shows_row_percentages(num_classes):
    counts = np.zeros((num_classes, num_classes), np.int64)
    counts[0, 1] = 5  # always taken for class 1
    counts[1, 1] = 10**12  # far beyond what 32 bits hold
    drawn = overlays.draw_confusion_matrix(counts, ["name"] * num_classes)
    cell = min(48, 720 // num_classes)
    x0 = drawn.shape[0] - overlays.LINE - 8 - cell * num_classes  # the matrix begins on the diagonal
    corner = drawn[x0 : x0 + 2 * cell, x0 : x0 + 2 * cell]
    deep, white = [8, 48, 107], [255, 255, 255]
    assert corner[1, 1].tolist() == white
    assert corner[1, cell + 1].tolist() == deep
    assert corner[cell + 1, cell + 1].tolist() == deep
    assert corner[cell + 1, 1].tolist() == white


@pytest.mark.parametrize("num_classes", [41, 400, 1000])
def test_confusion_matrix_ids_do_not_overlap(num_classes):
    drawn = overlays.draw_confusion_matrix(
        np.zeros((num_classes, num_classes), np.int64), ["name"] * num_classes
    )
    side = max(1, 720 // num_classes) * num_classes
    top = drawn.shape[0] - overlays.LINE - 8 - side
    inked = (drawn[top : top + side, : top - 2] < 128).any((1, 2))  # the first number is cut in two
    written = np.flatnonzero(np.diff(np.r_[False, inked].astype(int)) == 1)
    assert len(written) >= min(num_classes // 10, side // (2 * overlays.LINE))
    assert (np.diff(written[1:]) >= overlays.LINE - 2).all()


def test_saved_images_read_back_without_leftover_files(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    file = overlays.save_image(tmp_path / "deep" / "a.png", image)
    read = cv2.imread(str(file))
    assert read is not None
    assert (read[..., ::-1] == image).all()
    overlays.save_image(tmp_path / "deep" / "ids.png", IDS)
    assert (cv2.imread(str(tmp_path / "deep" / "ids.png"), cv2.IMREAD_UNCHANGED) == IDS).all()
    assert sorted(f.name for f in file.parent.iterdir()) == ["a.png", "ids.png"]


def test_unknown_image_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot write images as '\.xyz'; use \.png or \.jpg"):
        overlays.save_image(tmp_path / "new" / "a.xyz", IDS)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("size", [(8, 66000), (66000, 8)])
def test_thin_images_fit_into_jpeg_files_and_grids(size):
    image = np.full((*size, 3), 200, np.uint8)
    saved = cv2.imdecode(np.frombuffer(overlays.encode_image(image, ".jpg"), np.uint8), cv2.IMREAD_COLOR)
    assert max(saved.shape) == 65500
    assert (saved == 200).all()
    drawn = overlays.draw_grid([[image, image]], height=100)
    assert drawn.shape[0] == 100
    assert drawn.shape[1] <= 2 * 800 + 4
    assert (drawn == 200).all(2).any()
