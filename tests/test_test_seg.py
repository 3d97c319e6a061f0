"""Scoring with ``test_seg.py``: the same figures as in training, and files that hold them."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from conftest import run_command

from segkit import checkpoint


@pytest.fixture(scope="module")
def tested(tiny_run, tmp_path_factory):
    """Folder and output of a test of the last checkpoint, with masks."""
    folder = tmp_path_factory.mktemp("tested")
    done = run_command(
        "test_seg.py",
        f"checkpoint={tiny_run / 'last.pt'}",
        f"output={folder}",
        "save=[ids,overlays]",
        "loader.workers=0",
    )
    return folder, done.stdout


def test_scores_equal_those_of_the_last_validation_exactly(tested, tiny_run):
    folder, _ = tested
    result = json.loads((folder / "result.json").read_text())
    in_training = checkpoint.read(tiny_run / "best.pt")
    assert in_training["iteration"] == 4
    assert result["scores"] == in_training["scores"]
    assert result["protocol"]["name"] == "whole"
    assert result["protocol"]["scales"] == [1.0]
    assert result["pictures"] == 6


def test_the_moving_average_of_the_last_checkpoint_is_what_was_scored(tiny_run):
    last, best = (checkpoint.read(tiny_run / name) for name in ("last.pt", "best.pt"))
    different = [name for name in last["model"] if not last["model"][name].equal(last["average"][name])]
    assert different
    assert all(value.equal(last["average"][name]) for name, value in best["model"].items())


def test_the_files_agree_with_each_other(tested):
    folder, output = tested
    result = json.loads((folder / "result.json").read_text())
    with (folder / "confusion.csv").open() as file:
        counts = np.array([[int(n) for n in row[1:]] for row in list(csv.reader(file))[1:]])
    hits, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
    assert result["scores"]["pixAcc"] == pytest.approx(hits.sum() / counts.sum())
    assert result["scores"]["mIoU"] == pytest.approx(np.mean(hits / np.maximum(union, 1)))
    with (folder / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(result["class_iou"])
    assert [int(row["labelled pixels"]) for row in rows] == counts.sum(1).tolist()
    assert f"mIoU {100 * result['scores']['mIoU']:.2f}" in output
    assert "whole (scales 1" in output


def test_a_result_says_what_it_was_made_of(tested):
    result = json.loads((tested[0] / "result.json").read_text())
    assert len(result["weights_sha256"]) == 64
    assert {"segkit", "torch", "python"} <= set(result["versions"])
    assert result["settings"]["data"]["size"] == 32  # of the checkpoint
    assert result["settings"]["model"]["head"]["width"] == 16
