"""Run every Python block of docs/python.md."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from segkit.config.compose import compose_settings

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.medium
def test_python_blocks_of_docs_run(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    shutil.copy(tiny_run / "best.pt", tmp_path / "runs" / "demo" / "best.pt")
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    for name in ("photo.jpg", "a.jpg"):
        Image.fromarray(image).save(tmp_path / name)
    names = {"array": image, "image": image, "pil_image": Image.fromarray(image)}
    names["label"] = np.zeros((40, 48), np.uint8)
    assert len(BLOCKS) >= 2
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert names["ids"].shape == (40, 48)


def test_composed_settings_have_a_default_run_name():
    settings = compose_settings("train", ["model=deeplabv3_resnest14", "data=shapes"])
    assert settings["run_name"] == "deeplabv3_resnest14-shapes"
    assert compose_settings("train", ["experiment=demo"])["run_name"] == "demo"
