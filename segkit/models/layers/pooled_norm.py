"""Batch normalization of globally pooled features."""

from __future__ import annotations

from torch import Tensor, nn


class PooledBatchNorm(nn.BatchNorm2d):
    """Batch normalization over (B, C, 1, 1) that rejects a training batch of one image with a hint.

    Conversion to synchronized normalization removes the check: there the other processes have images, too.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Check the shape of an input.

        Raises:
            ValueError: it is a single image, in training.
        """
        super()._check_input_dim(input)
        if self.training and input.numel() == input.shape[1]:
            raise ValueError(
                "a training batch of one image cannot be normalized after global pooling. Give each "
                "process at least two images per micro-batch: raise schedule.batch_size or lower "
                "schedule.accumulate"
            )
