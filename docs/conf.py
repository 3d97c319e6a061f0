"""Sphinx configuration of the documentation site; ``make docs`` builds it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # segkit
sys.path.insert(0, str(Path(__file__).resolve().parent))

import settings_reference

import segkit

project = "segkit"
author = "the segkit maintainers"
copyright = author
version = release = segkit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
nitpicky = False
suppress_warnings = ["misc.highlighting_failure"]

myst_heading_anchors = 3
myst_heading_slug_func = "github"
myst_enable_extensions = ["colon_fence"]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"segkit {release}"
html_static_path = ["style"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_search_summary = False  # a browser cannot fetch pages from file://
html_show_sphinx = False
html_theme_options: dict[str, Any] = {
    "light_css_variables": {
        "color-foreground-primary": "#1c1e21",
        "color-foreground-secondary": "#4d545d",
        "color-foreground-muted": "#5f6670",
        "color-background-primary": "#ffffff",
        "color-background-secondary": "#f5f6f8",
        "color-background-border": "#dde1e6",
        "color-brand-primary": "#1558b0",
        "color-brand-content": "#1558b0",
        "color-brand-visited": "#1558b0",
        "font-stack": "system-ui, sans-serif",
    },
    "dark_css_variables": {
        "color-foreground-primary": "#e6e8eb",
        "color-foreground-secondary": "#b4bcc5",
        "color-foreground-muted": "#9aa3ad",
        "color-background-primary": "#14171a",
        "color-background-secondary": "#1e2227",
        "color-background-border": "#343a41",
        "color-brand-primary": "#8dbbf7",
        "color-brand-content": "#8dbbf7",
        "color-brand-visited": "#8dbbf7",
    },
}


def setup(app: Any) -> None:
    """Insert the settings and the help of the commands into the pages that ask for them."""

    def expand(_app: Any, name: str, source: list[str]) -> None:
        source[0] = settings_reference.expand(source[0])
        if name == "decisions/README":
            source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"

    def make_accessible(_app: Any, _name: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
        """Give headings of the sidebar a level, and let the keyboard scroll code and tables."""
        tree, body = context.get("furo_navigation_tree", ""), context.get("body", "")
        context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')
        body = body.replace('role="heading"', 'role="heading" aria-level="2"')
        body = body.replace("<pre>", '<pre tabindex="0">')
        context["body"] = body.replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')

    app.connect("source-read", expand)
    app.connect("html-page-context", make_accessible, priority=900)  # after furo
