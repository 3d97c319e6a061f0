"""The benchmark of the loader runs, with all its sides, on files of a few pixels."""

import json
import os
import sys

import cv2
import pytest
import torch

from conftest import ROOT


@pytest.fixture
def loader(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", os.environ.get("NO_ALBUMENTATIONS_UPDATE", "1"))
    threads = cv2.getNumThreads(), torch.get_num_threads()
    import loader

    yield loader
    cv2.setNumThreads(threads[0])
    torch.set_num_threads(threads[1])
    del sys.modules["loader"]


@pytest.mark.medium
@pytest.mark.parametrize(("decoded", "colour"), [(False, False), (True, True)])
def test_every_side_of_the_benchmark_gives_its_batches(
    loader, monkeypatch, tmp_path, capsys, decoded, colour
):
    case = loader.Case("tiny", (48, 64), ".png", 64, 32, decoded, colour, files=2, samples=24)
    monkeypatch.setattr(loader, "CASES", [case])
    monkeypatch.setattr(sys, "argv", ["loader.py", "--rounds", "1", "--results", str(tmp_path / "x.jsonl")])
    loader.main()
    (part,) = map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines())
    assert part["rates"].keys() == loader.SIDES.keys()
    assert all(rate > 0 for rate in part["rates"].values())
    assert "| tiny | " in capsys.readouterr().out
