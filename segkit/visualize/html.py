"""HTML pages and their parts: images as data, layers of a figure, classes with their colors."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from segkit.visualize import overlays


def render_page(title: str, body: str) -> str:
    """Return a page of one file: light and dark, for wide and narrow screens, with scripts for its tables."""
    template, style, script = (
        Path(__file__).with_name(f"page.{suffix}").read_text(encoding="utf-8")
        for suffix in ("html", "css", "js")
    )
    return Template(template).substitute(title=escape(title), body=body, style=style, script=script)


def render_image(image: np.ndarray, alternative: str, *, kind: str, suffix: str = ".png") -> str:
    """Return an ``img`` element that holds the image (H, W, 3); ``kind`` is its class."""
    data = base64.b64encode(overlays.encode_image(image, suffix)).decode()
    mime = "jpeg" if suffix == ".jpg" else "png"
    return f'<img class="{kind}" alt="{escape(alternative)}" src="data:image/{mime};base64,{data}">'


def render_class(k: int, names: Sequence[str], colors: np.ndarray) -> str:
    """Return the name of a class behind a swatch of its color."""
    red, green, blue = (int(c) for c in colors[k])
    return f'<span class="swatch" style="background:rgb({red},{green},{blue})"></span>{escape(names[k])}'


def render_legend(classes: Iterable[int], names: Sequence[str], colors: np.ndarray) -> str:
    """Return a panel with the names and colors of classes."""
    items = "".join(f"<div>{render_class(k, names, colors)}</div>" for k in classes)
    return f'<p></p><div class="panel legend">{items}</div>'


def render_layers(layers: Mapping[str, np.ndarray], name: str) -> str:
    """Return layers (H, W, 3) of one size on top of each other; that called ``image`` is a photograph."""
    images = ""
    for layer, pixels in layers.items():
        suffix = ".jpg" if layer == "image" else ".png"
        images += render_image(pixels, f"{name}: {layer}", kind=layer, suffix=suffix)
    return f'<div class="layers">{images}</div>'


def render_buttons(layers: Iterable[str]) -> str:
    """Return a button for each layer of a figure."""
    return "".join(f'<button type="button" data-layer="{layer}">{layer}</button>' for layer in layers)
