"""Lines printed before the first iteration: network, data, schedule and machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.runtime.text import format_count


def format_startup_line(settings: Mapping[str, Any], folder: Path) -> str:
    """Return the line that is printed before PyTorch is imported."""
    return f"{folder}: {_format_network(settings)} on {settings['data']['name']}; loading ..."


def format_banner(
    settings: Mapping[str, Any],
    *,
    parameters: int,
    train_images: int,
    val_images: int,
    iterations: int,
    done: int,
    machine: str,
) -> str:
    """Return a description of a training in a few lines."""
    schedule, model = settings["schedule"], settings["model"]
    weights = model.get("weights") or model["backbone"].get("weights")
    start = f"weights {weights}" if weights else "from scratch"
    length = f"{format_count(iterations, 'iteration')} of {schedule['batch_size']}"
    unit = "iteration"
    if schedule.get("epochs") is not None:
        length = f"{format_count(schedule['epochs'], 'epoch')} = {length}"
        unit = "epoch"
    rule = f"{schedule['optimizer']['name']} {schedule['lr']:g}, {schedule['lr_schedule']['name']}"
    lines = [
        f"{_format_network(settings)}: {parameters / 1e6:,.1f} million parameters, {start}",
        f"{settings['data']['name']}: {format_count(train_images, 'image')}, {length}, {rule}; validation on"
        f" {format_count(val_images, 'image')} every {format_count(settings['evaluation']['every'], unit)}",
        f"on {machine}",
    ]
    if done:
        lines.append(f"resumed at iteration {done:,}")
    if settings["runtime"].get("compile"):
        lines.append("compiling the network: the first step takes minutes (runtime.compile=false avoids it)")
    return "\n".join(lines)


def _format_network(settings: Mapping[str, Any]) -> str:
    """Return head and backbone; a variant of letters is set apart: resnet50, but resnet sknet_50."""
    backbone = settings["model"]["backbone"]
    variant = backbone.get("variant") or ""
    space = " " if variant[:1].isalpha() else ""
    return f"{settings['model']['head']['name']} on {backbone['name']}{space}{variant}"
