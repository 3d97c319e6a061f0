"""The documentation site: it builds without warnings, needs no other host, and is accessible."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from filelock import FileLock

from conftest import ROOT
from webdriver import browser, needs_chromium

sys.path.insert(0, str(ROOT / "docs"))
import settings_reference


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; test processes share one build."""
    shared = tmp_path_factory.getbasetemp()
    folder = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "site"
    with FileLock(f"{folder}.lock"):
        if not (folder / "index.html").exists():
            command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
            options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 300}
            done = subprocess.run([*command, "-d", f"{folder}.cache", "docs", folder], check=False, **options)
            assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as started:
        yield started


def test_every_setting_has_type_default_and_meaning():
    tables = settings_reference.list_all()
    assert not settings_reference.find_undescribed(tables), "add a comment to the yaml file of the setting"
    rows = {row.key: (row.kind, row.default) for table in tables.values() for row in table}
    assert rows.keys() >= {"data.bands", "model.backbone.radix", "writers.mlflow.uri"}
    assert not [key for key, (kind, _) in rows.items() if kind in ("", "any value")]
    assert rows["schedule.lr"] == ("number above 0 to 1000", "0.01")
    assert rows["schedule.freeze"] == ("`0`, `1`, `2`, `3`, `4`", "0")
    assert rows["schedule.patience"] == ("integer from 1 or null", "null")
    assert rows["image_size"] == ("integer from 1 to 16384, or [height, width], or null", "null")
    assert rows["augment.scales"] == ("[number from 0.01 to 16, number from 0.01 to 16]", "[0.5, 2.0]")
    assert rows["writers.wandb.mode"] == ("`offline`, `online`", "offline")


@pytest.mark.medium
def test_site_loads_nothing_from_another_host(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*?src=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link\b[^>]*?href=\"([^\"]+)\"", text)
        assert loaded
        assert not [url for url in loaded if "//" in url], page.name
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", text), style.name


@pytest.mark.medium
def test_site_has_settings_commands_and_docstrings(site):
    settings = (site / "settings.html").read_text(encoding="utf-8")
    keys = [row.key for table in settings_reference.list_all().values() for row in table]
    assert not [key for key in keys if f">{key}<" not in settings]
    assert "Keys people set most" in (site / "commands.html").read_text(encoding="utf-8")
    api = (site / "api.html").read_text(encoding="utf-8")
    assert all(f'.{name}"' in api for name in ("load", "evaluate", "Predictor"))


@pytest.mark.medium
@needs_chromium
def test_search_works_from_files(site, tab):
    tab.open(f"{(site / 'search.html').as_uri()}?q=accumulate")
    titles = "[...document.querySelectorAll('#search-results li a')].map(link => link.textContent)"
    tab.wait(f"return {titles}.includes('Speed and memory')")
    assert not tab.errors()


CHECKED = ("index", "quickstart", "using", "commands", "scoring")  # settings and api take axe ten seconds


@pytest.mark.medium
@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, True), (390, False)], ids=["dark", "phone"])
def test_pages_have_no_accessibility_violation(site, tab, width, dark):
    tab.dark(on=dark)
    tab.resize(width, 800)
    for page in CHECKED:
        tab.open((site / f"{page}.html").as_uri())
        assert not tab.find_violations(), page


@pytest.mark.medium
@needs_chromium
def test_no_page_scrolls_sideways_on_a_phone(site, tab):
    tab.resize(390, 800)
    for page in sorted(site.glob("*.html")):
        tab.open(page.as_uri())
        assert tab.run("return document.documentElement.scrollWidth <= innerWidth"), page.name
