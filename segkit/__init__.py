"""Semantic segmentation with ResNeSt and related networks.

``__all__`` is the documented interface (docs/python.md); its names are imported on first use.
"""

from typing import Any

__version__ = "0.2.0"

_HOMES = {
    "segkit.inference.predictor": ("Predictor", "load"),
    "segkit.inference": ("Protocol",),
    "segkit.evaluation": ("evaluate",),
    "segkit.evaluation.masks": ("score_masks",),
    "segkit.config.compose": ("compose_settings",),
    "segkit.training.builders": ("build_dataset", "build_loss", "build_model", "save", "training_batches"),
    "segkit.data.label_map": ("LabelMap",),
    "segkit.types": ("Batch", "Logits", "Sample"),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import segkit`` imports no torch."""
    for home, names in _HOMES.items():
        if name in names:
            import importlib

            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'segkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names of the module with the public ones, for completion."""
    return sorted({*globals(), *__all__})
