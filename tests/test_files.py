"""Text that a setting names is read to its end, if it has one."""

import os

import pytest

from segkit.losses import cross_entropy
from segkit.runtime import files


def test_a_file_that_cannot_be_written_has_its_own_name_in_the_error(tmp_path):
    with pytest.raises(OSError, match=r"none/a\.csv'") as error, files.atomic_write(tmp_path / "none/a.csv"):
        pass
    assert error.value.filename == str(tmp_path / "none/a.csv")


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/urandom"])
def test_a_device_is_refused_and_not_read(name):
    with pytest.raises(
        ValueError, match=rf"loss.class_weights={name}: .*{name} is a folder, a device or a pipe; give a"
    ):
        cross_entropy.build(2, class_weights=name)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is a folder, a device or a pipe; give a file"):
        files.read_text(tmp_path / "pipe")


def test_a_file_that_is_too_long_is_refused(tmp_path):
    file = tmp_path / "long.txt"
    with file.open("wb") as content:
        content.truncate(1 << 40)  # a hole; it takes no room
    with pytest.raises(
        ValueError, match=r"long.txt has 1,099,511,627,776 bytes, and at most 67,108,864 are read"
    ):
        files.read_text(file)


def test_text_is_read_whole_without_a_mark_of_its_order(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf0.5\n\xc3\xa4\n")
    assert files.read_text(tmp_path / "a.txt") == "0.5\nä\n"
    (tmp_path / "b.txt").write_bytes(b"\x00\x01\x02\x03\x04 data \xff")
    with pytest.raises(ValueError, match="not a text file"):
        files.read_text(tmp_path / "b.txt")
    with pytest.raises(ValueError, match="is a folder, a device or a pipe"):
        files.read_text(tmp_path)


def test_writing_a_file_follows_no_symbolic_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("a.pt", f"a.pt.{os.getpid()}.part"):
        (tmp_path / name).symlink_to(victim)
    with files.atomic_write(tmp_path / "a.pt") as file:
        file.write(b"new")
    assert victim.read_text() == "precious"
    assert (tmp_path / "a.pt").read_text() == "new"
