"""Batch normalization of globally pooled features: one value an image, so one image is not enough."""

from __future__ import annotations

from torch import Tensor, nn


class PooledBatchNorm(nn.BatchNorm2d):
    """Batch normalization over (B, C, 1, 1) that says what to do about a training batch of one.

    Conversion to synchronized normalization replaces it, and with it the check: there the other processes
    have images too.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """What an input must be.

        Raises:
            ValueError: in training, with a single image.
        """
        super()._check_input_dim(input)
        if self.training and input.numel() == input.shape[1]:
            raise ValueError(
                "a training batch of one image has no variance after global pooling and cannot be "
                "normalized; give each process at least two a step: raise schedule.batch_size or lower "
                "schedule.accumulate"
            )
