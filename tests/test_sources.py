"""Images of ``input=`` and their names."""

from __future__ import annotations

import pytest

from segkit.inference import sources


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in (
        "a.jpg",
        "a.png",
        "sub/b.JPG",
        "sub/deep/c.webp",
        "sub/.hidden.png",
        ".thumbs/d.png",
        "[x].png",
    ):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    (tmp_path / "photos/readme.md").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(source):
    return [image.name for image in sources.find_images(source).images]


def test_folder_is_searched_recursively(here):
    assert names("photos") == ["[x]", "a.jpg", "a.png", "sub/b", "sub/deep/c"]
    assert names(str(here / "photos/sub")) == ["b", "deep/c"]


def test_single_image_is_named_by_its_stem(here):
    assert names("photos/sub/b.JPG") == ["b"]
    assert names("photos/[x].png") == ["[x]"]  # a file before a pattern


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("photos/*.png", ["[x]", "a"]),
        ("photos/**/*.*p*", ["[x]", "a.jpg", "a.png", "sub/deep/c"]),
        ("photos/sub/?.JPG", ["b"]),
    ],
)
def test_pattern_names_are_relative_to_the_first_wildcard(here, pattern, expected):
    assert names(pattern) == expected


def test_list_paths_are_relative_to_it_or_current_folder(here):
    lines = ["# chosen", "a.jpg", "", "photos/sub/b.JPG", str(here / "photos/sub/deep/c.webp"), "gone.png"]
    (here / "photos/chosen.txt").write_text("\n".join(lines), encoding="utf-8-sig")
    found = sources.find_images("photos/chosen.txt").images
    assert [image.name for image in found] == ["a", "sub/b", "sub/deep/c", "gone"]
    assert [image.file for image in found[1:3]] == [
        here / "photos/sub/b.JPG",
        here / "photos/sub/deep/c.webp",
    ]


def test_tilde_in_a_list_is_expanded_for_users_only(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "photos"))
    (here / "chosen.txt").write_text("~/a.jpg\n~old.png\n")
    found = sources.find_images("chosen.txt").images
    assert [image.file for image in found] == [here / "photos/a.jpg", here / "~old.png"]


def test_empty_list_is_rejected(here):
    (here / "none.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"none\.txt: the list is empty; write one image per line"):
        sources.find_images("none.txt")


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("photos", "photos"),
        ("photos/*.png", "photos"),
        ("ride.mp4", "ride"),
        ("0", "camera0"),
        ("photos.v2", "photos.v2"),
        ("./photos/a.jpg", "a"),
    ],
)
def test_source_title_comes_from_the_input(here, source, title):
    (here / "ride.mp4").write_bytes(b"")
    (here / "photos.v2").mkdir()
    (here / "photos.v2/a.png").write_bytes(b"")
    assert sources.find_images(source).title == title


def test_tilde_is_the_home_folder(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    (here / "ride.mp4").write_bytes(b"")
    assert names("~/photos/sub") == ["b", "deep/c"]
    assert names("~/photos/*.png") == ["[x]", "a"]
    assert sources.find_images("~/photos/*.png").title == "photos"
    assert sources.find_images("~/ride.mp4").is_video


def test_image_names_are_unique(tmp_path):
    for name in ("a.jpg", "a.png", "a.jpg.png", "a.jpg.png.png", "b.tif"):
        (tmp_path / name).write_bytes(b"")
    assert names(str(tmp_path)) == ["a.jpg", "a.jpg.png", "a.jpg.png.png", "a.png", "b"]


def test_names_of_listed_files_stay_inside_the_output_folder(tmp_path):
    (tmp_path / "lists").mkdir()
    for name in ("one/a.png", "two/a.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    lines = ["../one/a.png", "../lists/../two/a.png", "../one/../one/a.png"]
    (tmp_path / "lists/all.txt").write_text("\n".join(lines))
    assert names(str(tmp_path / "lists/all.txt")) == ["one/a", "two/a"]


def test_circular_symbolic_link_ends(here):
    (here / "photos/sub/loop").symlink_to(here / "photos")
    assert names("photos") == ["[x]", "a.jpg", "a.png", "sub/b", "sub/deep/c"]


def test_several_inputs_are_named_below_common_folder(here):
    assert names(["photos/sub", "photos/*.png"]) == ["sub/b", "sub/deep/c", "[x]", "a"]
    with pytest.raises(ValueError, match="input=0: a video or a camera must be the only input"):
        sources.find_images(["photos", "0"])


def test_brackets_in_the_current_folder_are_not_wildcards(tmp_path, monkeypatch):
    (tmp_path / "[2024]").mkdir()
    (tmp_path / "[2024]/a.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "[2024]")
    assert names("*.png") == ["a"]
    assert sources.find_images("*.png").title == "[2024]"
