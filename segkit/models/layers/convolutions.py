"""Sequences of layers that several heads share."""

from __future__ import annotations

from torch import nn

from segkit.models.layers.dropout import Dropout


def conv_norm_relu(in_channels: int, width: int, size: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size, with batch normalization and ReLU."""
    padding = dilation * (size // 2)
    conv = nn.Conv2d(in_channels, width, size, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def make_classifier(in_channels: int, width: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Return 3x3, BN, ReLU, dropout, 1x1 to the classes."""
    return nn.Sequential(
        *conv_norm_relu(in_channels, width, 3), Dropout(dropout), nn.Conv2d(width, num_classes, 1)
    )
