"""Environment of a run: versions, device, commit and command line."""

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

PACKAGES = ("torch", "torchvision", "numpy", "albumentations", "opencv-python-headless", "hydra-core")


def describe_environment() -> dict[str, str]:
    """Return facts about the environment by name."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "segkit": f"{__version__}, commit {git_commit()}",
        "command": shlex.join([Path(sys.argv[0]).name, *(a.removeprefix("++") for a in sys.argv[1:])]),
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "device": ", ".join(gpus) or f"CPU, {torch.get_num_threads()} threads of {os.cpu_count()}",
        "CUDA": f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if gpus else "not used",
        **{package: package_version(package) for package in PACKAGES},
    }


def package_version(package: str) -> str:
    """Return the version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def git_commit() -> str:
    """Return the commit of the checkout, with a plus sign if files differ from it."""
    if commands.INSTALLED:  # a repository around it is another project's
        return "unknown"
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()
