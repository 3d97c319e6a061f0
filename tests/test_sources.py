"""Images of ``input=`` and their names."""

from __future__ import annotations

import pytest

from segkit.inference import sources

FILES = ["a.jpg", "a.png", "sub/b.JPG", "sub/deep/c.webp", "sub/.hidden.png", ".t/d.png", "[x].png", "e.md"]
EXPECTED = ["[x]", "a.jpg", "a.png", "sub/b", "sub/deep/c"]


def write_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, also the home folder, with FILES in ``photos``."""
    write_files(tmp_path / "photos", *FILES)
    write_files(tmp_path, "ride.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def names(source):
    return [image.name for image in sources.find_images(source).images]


@pytest.mark.parametrize(
    ("source", "title", "expected"),
    [
        ("photos", "photos", EXPECTED),
        ("~/photos/sub", "sub", ["b", "deep/c"]),
        ("photos/sub/b.JPG", "b", ["b"]),
        ("photos/[x].png", "[x]", ["[x]"]),  # a file before a pattern
        ("photos/*.png", "photos", ["[x]", "a"]),
        ("~/photos/**/*.*p*", "photos", ["[x]", "a.jpg", "a.png", "sub/deep/c"]),
        ("photos/sub/?.JPG", "sub", ["b"]),
        ("~/ride.mp4", "ride", ["ride"]),
        ("0", "camera0", ["camera0"]),
        (["photos/sub", "photos/*.png"], "photos", ["sub/b", "sub/deep/c", "[x]", "a"]),
    ],
)
def test_inputs_have_a_title_and_names(here, source, title, expected):
    found = sources.find_images(source)
    assert found.title == title
    assert [image.name for image in found.images] == expected
    assert found.video == {"ride": here / "ride.mp4", "camera0": 0}.get(title)


def test_list_paths_are_relative_to_it_or_current_folder(here):
    absolute = here / "photos/sub/deep/c.webp"
    lines = f"# chosen\na.jpg\n\nphotos/sub/b.JPG\n{absolute}\ngone.png\n~/photos/e.png\n~e.png\n"
    (here / "photos/chosen.txt").write_text(lines, encoding="utf-8-sig")
    found = sources.find_images("photos/chosen.txt").images
    assert [image.name for image in found] == ["a", "sub/b", "sub/deep/c", "gone", "e", "~e"]
    assert [image.file for image in found[1:3]] == [here / "photos/sub/b.JPG", absolute]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.txt", r"none\.txt: the list is empty; write one image per line"),
        (["photos", "0"], "input=0: a video or a camera must be the only input"),
    ],
)
def test_unusable_inputs_are_rejected(here, source, message):
    (here / "none.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match=message):
        sources.find_images(source)


def test_image_names_are_unique(tmp_path):
    write_files(tmp_path, "a.jpg", "a.png", "a.jpg.png", "b.tif")
    assert names(str(tmp_path)) == ["a_2", "a.jpg", "a.png", "b"]


def test_names_of_listed_files_stay_inside_the_output_folder(tmp_path):
    write_files(tmp_path, "one/a.png", "two/a.png")
    (tmp_path / "lists").mkdir()
    lines = ["../one/a.png", "../lists/../two/a.png", "../one/../one/a.png"]
    (tmp_path / "lists/all.txt").write_text("\n".join(lines))
    assert names(str(tmp_path / "lists/all.txt")) == ["one/a", "two/a"]


def test_brackets_in_the_current_folder_are_not_wildcards(tmp_path, monkeypatch):
    write_files(tmp_path / "[2024]", "a.png")
    monkeypatch.chdir(tmp_path / "[2024]")
    assert names("*.png") == ["a"]
    assert sources.find_images("*.png").title == "[2024]"
