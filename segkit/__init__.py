"""Semantic segmentation: ResNeSt and its family under DeepLabV3, with exact numbers and exact resume."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """``segkit.load``, imported when it is asked for: ``import segkit`` imports no torch."""
    if name == "load":
        from segkit.inference.predictor import load

        return load
    raise AttributeError(f"module 'segkit' has no attribute {name!r}")
