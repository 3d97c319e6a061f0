"""A command that cannot go on ends with one message; want of memory names what makes it smaller."""

import sys

import numpy as np
import pytest
import torch

from segkit.models import segmenter
from segkit.runtime import errors


def ending(story, capsys):
    with pytest.raises(SystemExit) as end:
        errors.report_user_errors(story)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    return end.value.code, said


def raising(error):
    def story():
        raise error

    return story


@pytest.mark.parametrize(
    "story",
    [
        lambda: torch.empty(1 << 50),  # the words of PyTorch itself
        lambda: np.empty(1 << 55, dtype=np.uint8),
        lambda: bytearray(1 << 60),
        raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore lines")),
        raising(OSError(12, "Cannot allocate memory")),
        raising(RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")),
    ],
    ids=["torch", "numpy", "python", "cuda", "system", "worker"],
)
def test_want_of_memory_is_one_line_with_settings_that_help(story, capsys):
    status, said = ending(story, capsys)
    assert status == 2
    assert said.startswith("error: out of memory during the command: decrease schedule.batch_size")
    for key in ("schedule.accumulate", "augment.crop_size", "runtime.precision=bf16", "evaluation.memory"):
        assert key in said


def test_what_was_being_done_is_named(capsys, monkeypatch):
    def build(*_, **__):
        raise MemoryError

    monkeypatch.setattr("segkit.config.registry.build", build)
    story = lambda: segmenter.build(2, backbone={"name": "resnest"}, head={"name": "fcn"})  # noqa: E731
    _, said = ending(story, capsys)
    assert "out of memory during building the network: choose a smaller model=" in said


def test_other_errors_are_not_taken_for_want_of_memory(capsys):
    assert (
        ending(raising(ValueError("run out of memory lane")), capsys)[1] == "error: run out of memory lane\n"
    )
    with pytest.raises(RuntimeError, match="shapes differ"):
        errors.report_user_errors(raising(RuntimeError("shapes differ")))
    with pytest.raises(KeyError):
        errors.report_user_errors(raising(KeyError("ours")))


def test_error_of_the_system_names_file_and_reason(tmp_path, capsys):
    said = ending(lambda: (tmp_path / "none/a.txt").write_text("x"), capsys)[1]
    assert said == f"error: {tmp_path}/none/a.txt: No such file or directory\n"


def test_ctrl_c_before_the_training_ends_in_a_word(capsys):
    assert ending(raising(KeyboardInterrupt()), capsys) == (130, "stopped\n")
    assert sys.exc_info() == (None, None, None)
