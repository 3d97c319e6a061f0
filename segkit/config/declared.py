"""What settings there are: the sections, where each goes, and what every command has besides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from segkit.config import registry
from segkit.config.values import (
    Device,
    InputSource,
    NonNegativeInt,
    PathOrNull,
    PathStr,
    PositiveInt,
    Range,
    Side,
    Size,
)

CONF = next(folder / "conf" for folder in (registry.ROOT, registry.ROOT.parent) if (folder / "conf").is_dir())
"""Where the files of settings lie: in an installed segkit inside, in a checkout beside it."""
own_folders: list[Path] = []
"""What ``--config-dir`` of this command named: choices of one's own."""
SECTIONS = {
    "data": "data.datasets",
    "model": "models/segmenter.py:build",
    "model.backbone": "models.backbones",
    "model.head": "models.heads",
    "model.auxiliary": "models.heads",
    "loss": "losses",
    "augment": "data/transforms.py:Augmentation",
    "evaluation": "inference/protocol.py:Protocol",
    "schedule": "training/schedule.py:Schedule",
    "schedule.optimizer": "training.optimizers",
    "schedule.lr_schedule": "training.lr_schedules",
    "checkpoint": "checkpoint.py:CheckpointConfig",
    "runtime": "runtime/precision.py:Runtime",
}
"""Where each section goes: a package of components, or ``file:function`` (``file:Class`` for its fields)."""

LISTS = {
    "loss.parts": "losses",
    "augment.extra": "data.augmentations",
    "evaluation.evaluators": "evaluation.evaluators",
    "writers": "monitor.writers",
}
"""Settings that list components of a package by name, each with its own settings."""

Workers = Annotated[int, Range(least=0, most=256)]
SIZES = {"sizes.base": Side, "sizes.crop": Size, "sizes.bounds": Size}
TRAINED = (  # of the commands that use a trained network
    {
        "checkpoint": PathOrNull,
        "output": PathOrNull,
        "device": Device,
        "resume": bool,
        "submission": bool,
        "trust_code": bool,
    }
    | SIZES
    | dict.fromkeys(("data", "model", "evaluation"), dict)
)
COMMANDS: dict[str, dict[str, Any]] = {
    "train": {
        "run_name": str,
        "run_dir": PathStr,
        "seed": NonNegativeInt,
        "device": Device,
        "resume": bool | Literal["auto"],
        "summary": bool,
        "profile": bool,
        "lr_finder": bool,
        "loader.workers": Workers,
        "writers": dict[str, dict | bool | None],
        "evaluation.every": Annotated[float, Range(least=1e-4)],
    }
    | SIZES
    | dict.fromkeys(
        ("data", "model", "loss", "augment", "evaluation", "schedule", "checkpoint", "runtime"), dict
    ),
    "test": TRAINED
    | {
        "save": list[Literal["ids", "colors", "overlays"]],
        "report": bool,
        "loader.workers": Workers,
    },
    "predict": TRAINED
    | {
        "input": InputSource,
        "save": list[Literal["ids", "colors", "overlays", "probabilities"]],
    },
    "export": {
        "checkpoint": PathOrNull,
        "output": PathOrNull,
        "format": Literal["onnx", "openvino", "torch_export"],
        "interface": Literal["ids", "logits"],
        "image_size": Size | None,
        "precision": Literal["fp32", "fp16", "int8"],
        "input": PathOrNull,
        "images": PositiveInt,
        "calibration": PathOrNull,
        "calibration_images": PositiveInt,
    }
    | SIZES
    | dict.fromkeys(("data", "model", "evaluation"), dict),
}
"""What each command accepts besides the keys that ``SECTIONS`` gives; ``dict`` marks a section."""

EVERYWHERE = {"plugins": list[str]}
"""What every command accepts, and does without."""
OPTIONAL = {"test": ("sizes",), "predict": ("sizes", "data"), "export": ("sizes", "data")}
"""What a command does without, where a checkpoint does not say it; every other key must be there."""
