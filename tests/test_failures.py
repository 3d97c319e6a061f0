"""Commands end with one message; out-of-memory errors name settings that need less."""

import sys

import numpy as np
import pytest
import torch

from segkit.models import segmenter
from segkit.runtime import errors


def run_failing(command, capsys):
    with pytest.raises(SystemExit) as end:
        errors.report_user_errors(command)
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert len(message.splitlines()) == 1
    return end.value.code, message


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    "command",
    [
        lambda: torch.empty(1 << 50),  # the words of PyTorch itself
        lambda: np.empty(1 << 55, dtype=np.uint8),
        raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore lines")),
        raising(OSError(12, "Cannot allocate memory")),
        raising(RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")),
    ],
    ids=["torch", "numpy", "cuda", "system", "worker"],
)
def test_out_of_memory_is_one_line_with_settings_that_help(command, capsys):
    status, message = run_failing(command, capsys)
    assert status == 2
    assert message.startswith("error: out of memory during the command: decrease schedule.batch_size")
    for key in ("schedule.accumulate", "augment.crop_size", "runtime.precision=bf16", "evaluation.memory"):
        assert key in message


def test_out_of_memory_names_the_activity(capsys, monkeypatch):
    def build(*_, **__):
        raise MemoryError

    monkeypatch.setattr("segkit.config.registry.build", build)
    command = lambda: segmenter.build(2, backbone={"name": "resnest"}, head={"name": "fcn"})  # noqa: E731
    _, message = run_failing(command, capsys)
    assert "out of memory during building the network: choose a smaller model=" in message


def test_other_errors_are_not_out_of_memory(capsys):
    assert (
        run_failing(raising(ValueError("run out of memory lane")), capsys)[1]
        == "error: run out of memory lane\n"
    )
    with pytest.raises(RuntimeError, match="shapes differ"):
        errors.report_user_errors(raising(RuntimeError("shapes differ")))
    with pytest.raises(KeyError):
        errors.report_user_errors(raising(KeyError("ours")))


def test_os_error_names_file_and_reason(tmp_path, capsys):
    message = run_failing(lambda: (tmp_path / "none/a.txt").write_text("x"), capsys)[1]
    assert message == f"error: {tmp_path}/none/a.txt: No such file or directory\n"


def test_ctrl_c_before_training_prints_stopped(capsys):
    assert run_failing(raising(KeyboardInterrupt()), capsys) == (130, "stopped\n")
    assert sys.exc_info() == (None, None, None)
