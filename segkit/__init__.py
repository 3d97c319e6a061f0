"""Semantic segmentation: ResNeSt and its family under DeepLabV3, with exact numbers and exact resume."""

__version__ = "0.1.0"
