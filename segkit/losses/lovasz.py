"""Lovasz-softmax: a surrogate of 1 - IoU (Berman et al. 2018, section 3).

For each class of the label, errors are |g - p| of the scored pixels. Sorted from the largest, each is
weighted by how much the Jaccard loss grows when its pixel joins the wrong ones; the sum is the loss.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from segkit.config import NonNegativeFloat
from segkit.losses._chunks import Chunk, HeadLogits, chunked_sum, iterate_chunks
from segkit.losses._loss import RegionLoss
from segkit.runtime import precision
from segkit.types import ignore_index


class Lovasz(RegionLoss):
    """Lovasz-softmax over each image, or over all images of a micro-batch.

    Over images it is a mean, so it does not depend on how a batch is divided. Over a batch it does.
    """

    def __init__(self, num_classes: int, *, aux_weight: float, over: Literal["image", "batch"]) -> None:
        super().__init__(num_classes, aux_weight=aux_weight)
        self.over = over

    def compute_mean(self, head: HeadLogits, target: Tensor) -> Tensor:
        """Return the loss of one head."""
        head = head.resize(target)  # errors are sorted over all pixels
        groups = [[image] for image in range(len(target))]
        if self.over == "batch":
            groups = [list(range(len(target)))]
        image_weights = lovasz_weights(head, target, groups)

        def sum_errors(chunk: Chunk) -> Tensor:
            classes, weights = image_weights[chunk.image]
            true = (chunk.target == classes[:, None]).to(chunk.logits.dtype)  # (P, n)
            error = (true - chunk.logits.softmax(0).index_select(0, classes)).abs()
            return (error * weights[:, chunk.rows].flatten(1)).sum() / max(1, len(classes))

        total = chunked_sum(head, target, sum_errors).sum()
        if self.over == "batch":
            return total
        return (total / self.compute_weight(target).clamp(min=1).to(total.device)).to(total.dtype)


@torch.no_grad()
def lovasz_weights(head: HeadLogits, target: Tensor, groups: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
    """Return for each image the P classes of its label, and the weights (P, H, W) of its errors.

    The errors of a group of images are sorted together. Weights are 0 where pixels are ignored.
    """
    logsumexp = torch.cat([chunk.logits.logsumexp(0) for chunk in iterate_chunks(head, target)])
    normalizers = logsumexp.view(target.shape)
    collected = []
    for group in groups:
        label = target[group]  # (G, H, W)
        scored = label != ignore_index(head.logits.shape[1])
        classes = label[scored].unique()
        weights = normalizers.new_zeros(len(classes), *label.shape)
        for weight, number in zip(weights, classes.tolist(), strict=True):
            probability = (head.logits[group, number] - normalizers[group]).exp()
            true = (label == number)[scored]
            error = (true.to(probability.dtype) - probability[scored]).abs()
            weight[scored] = _jaccard_growth(error, true).to(weight.dtype)
        collected += [(classes, weights[:, index]) for index in range(len(group))]
    return collected


def _jaccard_growth(error: Tensor, true: Tensor) -> Tensor:
    """Return how much the Jaccard loss grows with each pixel, from the largest error down; (n,) float64."""
    order = error.argsort(descending=True, stable=True)
    hit = true[order].cumsum(0)  # of integers: deterministic on CUDA
    union = true.sum() + torch.arange(1, len(hit) + 1, device=hit.device) - hit
    dtype = precision.widest_float_dtype(hit.device)
    jaccard = 1 - (true.sum() - hit).to(dtype) / union  # its differences are too small for float32
    growth = torch.diff(jaccard, prepend=jaccard.new_zeros(1))
    return torch.empty_like(growth).index_copy_(0, order, growth)


def build(
    num_classes: int,
    *,
    aux_weight: NonNegativeFloat = 0.2,
    over: Literal["image", "batch"] = "image",
) -> Lovasz:
    """Build a Lovasz-softmax, best combined with cross-entropy; ``over`` selects the pixels of an IoU."""
    return Lovasz(num_classes, aux_weight=aux_weight, over=over)
