"""What ``input=`` finds, and under which names."""

from __future__ import annotations

import pytest

from segkit.compose import accept_any_key
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
    return [image.name for image in sources.find(source)]


def test_a_folder_is_searched_to_its_bottom_and_names_are_unique(here):
    assert names("photos") == ["[x]", "a.jpg", "a.png", "sub/b", "sub/deep/c"]
    assert names(str(here / "photos/sub")) == ["b", "deep/c"]


def test_a_single_image_has_its_own_name(here):
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
def test_a_pattern_names_images_below_its_first_wildcard(here, pattern, expected):
    assert names(pattern) == expected


def test_a_list_names_files_relative_to_itself_or_to_where_one_is(here):
    lines = ["# chosen", "a.jpg", "", "photos/sub/b.JPG", str(here / "photos/sub/deep/c.webp"), "gone.png"]
    (here / "photos/chosen.txt").write_text("\n".join(lines), encoding="utf-8-sig")
    found = sources.find("photos/chosen.txt")
    assert [image.name for image in found] == ["a", "sub/b", "sub/deep/c", "gone"]
    assert [str(image.file) for image in found[1:3]] == [
        "photos/sub/b.JPG",
        str(here / "photos/sub/deep/c.webp"),
    ]


def test_an_empty_list_is_refused(here):
    (here / "none.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"none\.txt: the list is empty; it holds one image a line"):
        sources.find("none.txt")


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("photos", "photos"),
        ("photos/*.png", "photos"),
        ("a/ride.mp4", "ride"),
        (0, "camera0"),
        ("./photos/a.jpg", "a"),
    ],
)
def test_results_are_named_after_what_was_given(here, source, title):
    assert sources.title(source) == title


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ("input=photos/*.jpg", "++input=photos/*.jpg"),
        ("input=Größe (1)/a=b.jpg", "++input='Größe (1)/a=b.jpg'"),
        ("input=it's.jpg", "++input='it\\'s.jpg'"),
        ("data.root=[a,b]", "++data.root=[a,b]"),
        ("evaluation=encoding", "evaluation=encoding"),
    ],
)
def test_a_path_of_any_letters_can_be_said_on_the_command_line(given, understood):
    assert accept_any_key(given) == understood


def test_a_tilde_is_the_home_folder(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    (here / "ride.mp4").write_bytes(b"")
    assert names("~/photos/sub") == ["b", "deep/c"]
    assert names("~/photos/*.png") == ["[x]", "a"]
    assert sources.title("~/photos/*.png") == "photos"
    assert sources.is_video("~/ride.mp4")
    assert sources.find("~/ride.mp4") == []
