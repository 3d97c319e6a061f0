"""On what a run ran: versions, device, commit and command line."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

from segkit import __version__
from segkit.runtime import commands
from segkit.visualize.tables import format_markdown_table

PACKAGES = ("torch", "torchvision", "numpy", "albumentations", "opencv-python-headless", "hydra-core")


def environment() -> dict[str, str]:
    """Facts for the record, by name."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "segkit": f"{__version__}, commit {commit()}",
        "command": shlex.join([Path(sys.argv[0]).name, *(a.removeprefix("++") for a in sys.argv[1:])]),
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "device": ", ".join(gpus) or f"CPU, {torch.get_num_threads()} threads of {os.cpu_count()}",
        "CUDA": f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if gpus else "not used",
        **{package: version(package) for package in PACKAGES},
    }


def environment_text() -> str:
    """The same as a table in Markdown."""
    return format_markdown_table(
        ["what", "which"], [[name, f"`{value}`"] for name, value in environment().items()]
    )


def version(package: str) -> str:
    """Of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """Of the checkout segkit runs from, with a plus sign when files differ from it."""
    if commands.INSTALLED:  # a checkout around it is somebody else's
        return "unknown"
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()
