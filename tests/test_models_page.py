"""docs/models.md says what the networks are."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
MAKER = runpy.run_path(str(ROOT / "docs" / "models.py"))


@pytest.mark.medium
@pytest.mark.parametrize("backbone", [("resnest", "50"), ("resnet", "sknet_50"), ("resnet", "50")])
def test_the_row_of_a_backbone_is_what_its_command_writes(backbone):
    assert MAKER["row_of_backbone"](*backbone) in PAGE


def test_the_row_of_a_head_is_what_its_command_writes():
    assert MAKER["row_of_head"]("deeplabv3") in PAGE


def test_every_backbone_has_a_row():
    assert [name for name in MAKER["backbones"]() if f"| {' '.join(name)} |" not in PAGE] == []


@pytest.mark.slow
def test_the_whole_page_is_what_its_command_writes(tmp_path):
    page = tmp_path / "models.md"
    page.write_text(PAGE, encoding="utf-8")
    maker = MAKER["main"]
    maker.__globals__["PAGE"] = page
    maker()
    assert page.read_text(encoding="utf-8") == PAGE
