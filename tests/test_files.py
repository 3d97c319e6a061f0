"""Reading text and atomic writes."""

import os

import pytest

from segkit.runtime import files


def test_write_error_names_the_final_file(tmp_path):
    with pytest.raises(OSError, match=r"none/a\.csv'") as error, files.atomic_write(tmp_path / "none/a.csv"):
        pass
    assert error.value.filename == str(tmp_path / "none/a.csv")


def test_read_text_refuses_pipes_and_long_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is a folder, a device or a pipe; give a file"):
        files.read_text(tmp_path / "pipe")
    with (tmp_path / "long.txt").open("wb") as content:
        content.truncate(1 << 40)  # a hole; it takes no room
    with pytest.raises(ValueError, match=r"long.txt has 1,099,511,627,776 bytes, and at most 67,108,864"):
        files.read_text(tmp_path / "long.txt")


def test_read_text_drops_byte_order_marks_and_refuses_binary(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf0.5\n\xc3\xa4\n")
    assert files.read_text(tmp_path / "a.txt") == "0.5\nä\n"
    (tmp_path / "b.txt").write_bytes(b"\x00\x01\x02\x03\x04 data \xff")
    with pytest.raises(ValueError, match="not a text file"):
        files.read_text(tmp_path / "b.txt")


def test_atomic_write_does_not_follow_symbolic_links(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("a.pt", f"a.pt.{os.getpid()}.part"):
        (tmp_path / name).symlink_to(victim)
    with files.atomic_write(tmp_path / "a.pt") as file:
        file.write(b"new")
    assert victim.read_text() == "precious"
    assert (tmp_path / "a.pt").read_text() == "new"
