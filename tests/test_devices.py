"""Choice of the device of a process."""

import pytest
import torch

from segkit.runtime import distributed


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that torch finds this many GPUs."""

    def pretend(count, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("choice", "count", "local_rank", "expected"),
    [
        ("auto", 0, "0", "cpu"),
        ("auto", 0, "0", "mps"),
        ("auto", 2, "1", "cuda:1"),
        ("cuda", 4, "2", "cuda:2"),
        ("cuda:1", 2, "0", "cuda:1"),
        ("mps", 0, "0", "mps"),
    ],
)
def test_pick_device(choice, count, local_rank, expected, gpus, monkeypatch):
    gpus(count, mps=expected == "mps")
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert distributed.pick_device(choice) == torch.device(expected)


@pytest.mark.parametrize(
    ("choice", "count", "message"),
    [
        ("cuda:1", 0, "device=cuda:1: torch finds no such device. Use device=cpu or device=auto"),
        ("cuda:7", 2, "device=cuda:7: the GPUs of this machine are cuda:0 to cuda:1"),
        ("mps", 2, "device=mps: torch finds no such device"),
        ("gpu", 2, "device=gpu: torch finds no such device"),
    ],
)
def test_missing_device_is_refused(choice, count, message, gpus):
    gpus(count)
    with pytest.raises(ValueError, match=message):
        distributed.pick_device(choice)


def test_one_gpu_for_several_processes_is_refused(gpus, monkeypatch):
    gpus(2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ValueError, match=r"device=cuda:1: one GPU for several processes. Use device=cuda"):
        distributed.pick_device("cuda:1")
