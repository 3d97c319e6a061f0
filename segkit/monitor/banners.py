"""What is about to be trained, said before anything takes long."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from segkit.runtime.wording import write_count


class RunFacts(NamedTuple):
    """What the settings do not tell."""

    parameters: int
    train_images: int
    val_images: int
    iterations: int  # of the whole run
    done: int  # of them, by the run that goes on
    device: str
    precision: str


def startup_line(settings: Mapping[str, Any], folder: Path) -> str:
    """One line for the moments in which PyTorch is loaded and the data are listed."""
    return f"{folder}: {_network(settings)} on {settings['data']['name']}; loading ..."


def format_banner(settings: Mapping[str, Any], facts: RunFacts) -> str:
    """A few lines: network, data, length and rule, machine, and where a resumed run stands."""
    data, schedule, runtime = settings["data"], settings["schedule"], settings["runtime"]
    model = settings["model"]
    start = model.get("weights") or model["backbone"].get("weights")
    length = f"{write_count(facts.iterations, 'iteration')} of {schedule['batch_size']}"
    if schedule.get("epochs") is not None:
        length = f"{write_count(schedule['epochs'], 'epoch')} = {length}"
        every = write_count(settings["evaluation"]["every"], "epoch")
    else:
        every = write_count(settings["evaluation"]["every"], "iteration")
    rule = f"{schedule['optimizer']['name']} {schedule['lr']:g}, {schedule['lr_schedule']['name']}"
    lines = [
        f"{_network(settings)}: {facts.parameters / 1e6:,.1f} million parameters, "
        + (f"weights {start}" if start else "from scratch"),
        f"{data['name']}: {write_count(facts.train_images, 'image')}, {length}, {rule};"
        f" validation on {write_count(facts.val_images, 'image')} every {every}",
        f"on {facts.device} in {facts.precision}",
    ]
    if facts.done:
        lines.append(f"resumed at iteration {facts.done:,}")
    if runtime.get("compile"):
        lines.append(
            "compiling the network: the first step takes minutes (runtime.compile=false does without)"
        )
    return "\n".join(lines)


def _network(settings: Mapping[str, Any]) -> str:
    model = settings["model"]
    backbone = model["backbone"]
    variant = backbone.get("variant") or ""
    apart = " " if variant[:1].isalpha() else ""  # resnet50, but resnet sknet_50
    return f"{model['head']['name']} on {backbone['name']}{apart}{variant}"


def duration(seconds: float) -> str:
    """Seconds in the two units that matter: ``3 days 4 h``, ``5 h 12 min``, ``7 min``."""
    minutes = round(seconds / 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} {'day' if days == 1 else 'days'} {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else "less than a minute"
