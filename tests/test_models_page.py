"""The tables of docs/models.md are those that docs/models.py writes."""

from __future__ import annotations

import runpy

import pytest

from conftest import ROOT

PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
SCRIPT = runpy.run_path(str(ROOT / "docs" / "models.py"))


@pytest.mark.medium
@pytest.mark.parametrize("backbone", [("resnest", "50"), ("resnet", "sknet_50"), ("resnet", "50")])
def test_backbone_rows_are_up_to_date(backbone):
    assert SCRIPT["backbone_row"](*backbone) in PAGE


def test_head_row_is_up_to_date():
    assert SCRIPT["head_row"]("deeplabv3") in PAGE


def test_every_backbone_has_a_row():
    assert [name for name in SCRIPT["list_backbones"]() if f"| {' '.join(name)} |" not in PAGE] == []


@pytest.mark.slow
def test_models_page_is_up_to_date(tmp_path):
    page = tmp_path / "models.md"
    page.write_text(PAGE, encoding="utf-8")
    maker = SCRIPT["write_tables"]
    maker.__globals__["PAGE"] = page
    maker()
    assert page.read_text(encoding="utf-8") == PAGE
