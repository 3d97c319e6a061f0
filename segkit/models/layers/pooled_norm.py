"""Batch normalisation of globally pooled features: one value an image, so one image is not enough."""

from __future__ import annotations

from torch import Tensor, nn


class PooledBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over (B, C, 1, 1) that says what to do about a training batch of one.

    Conversion to synchronised normalisation replaces it, and with it the check: there the other processes
    have images too.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise.

        Raises:
            ValueError: in training, with a single image.
        """
        if self.training and input.numel() == input.shape[1]:
            raise ValueError(
                "a training batch of one image has no variance after global pooling and cannot be "
                "normalised; give each process at least two a step: raise schedule.batch_size or lower "
                "schedule.accumulate"
            )
        return super().forward(input)
