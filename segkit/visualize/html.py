"""Parts of HTML pages: shared look and script, images as data, swatches of classes."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from segkit.visualize import overlays


def read_style() -> str:
    """Return the style sheet of all pages: light and dark, for wide and narrow screens."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def read_script() -> str:
    """Return the script of all pages: layers of figures, sortable tables."""
    return Path(__file__).with_name("page.js").read_text(encoding="utf-8")


def render_image(image: np.ndarray, alternative: str, *, kind: str, suffix: str = ".png") -> str:
    """Return an ``img`` element that holds the image (H, W, 3); ``kind`` is its class."""
    data = base64.b64encode(overlays.encode_image(image, suffix)).decode()
    mime = "jpeg" if suffix == ".jpg" else "png"
    return f'<img class="{kind}" alt="{escape(alternative)}" src="data:image/{mime};base64,{data}">'


def render_class(k: int, names: Sequence[str], colors: np.ndarray) -> str:
    """Return the name of a class behind a swatch of its color."""
    red, green, blue = (int(c) for c in colors[k])
    return f'<span class="swatch" style="background:rgb({red},{green},{blue})"></span>{escape(names[k])}'
