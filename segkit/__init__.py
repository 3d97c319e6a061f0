"""Semantic segmentation: ResNeSt and its family under DeepLabV3, with exact numbers and exact resume.

What stands in ``__all__`` is the documented interface (docs/python.md), imported when it is asked for.
"""

from typing import Any

__version__ = "0.2.0"

_HOMES = {
    "segkit.inference.predictor": ("Predictor", "load"),
    "segkit.inference": ("Protocol",),
    "segkit.evaluation": ("evaluate",),
    "segkit.evaluation.masks": ("score_masks",),
    "segkit.config.compose": ("composed",),
    "segkit.training.builders": ("build_dataset", "build_loss", "build_model", "save", "training_batches"),
    "segkit.data.label_map": ("LabelMap",),
    "segkit.types": ("Batch", "Logits", "Sample"),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> Any:
    """A public name, imported on first use: ``import segkit`` imports no torch."""
    for home, names in _HOMES.items():
        if name in names:
            import importlib

            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'segkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    """With the public names, for completion."""
    return sorted({*globals(), *__all__})
