"""Lovasz-softmax: the surrogate of 1 - IoU that is exact at the corners (Berman et al. 2018, section 3).

For each class of the label, errors are |g - p| of the scored pixels. Sorted from the largest, each is
weighted by how much the Jaccard loss grows when its pixel joins those that are wrong; the sum is the loss.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from segkit.config import NonNegativeFloat
from segkit.losses._chunks import Chunk, HeadLogits, chunked_sum, iterate_chunks
from segkit.losses._loss import RegionLoss
from segkit.runtime import precision
from segkit.types import ignore_index


class LovaszWeights(NamedTuple):
    """Of one image: how each pixel's error of a class counts."""

    classes: Tensor  # (P,) int64, those of the label
    weights: Tensor  # (P, H, W); 0 where ignored


class Lovasz(RegionLoss):
    """Lovasz-softmax over each image alone, or over all images of a part of the batch together.

    Over each image it is a mean over images, so it is the same however a batch is divided. Over the batch it
    is not: the errors of all images are sorted together, and the IoU is a ratio of sums over all of them.
    """

    def __init__(self, num_classes: int, *, aux_weight: float, over: Literal["image", "batch"]) -> None:
        super().__init__(num_classes, aux_weight=aux_weight)
        self.over = over

    def mean(self, logits: Tensor | HeadLogits, target: Tensor) -> Tensor:
        """Of one head; (B, K, H, W) logits, (B, H, W) target."""
        logits = logits.full(target) if isinstance(logits, HeadLogits) else logits  # sorted over all pixels
        images = range(len(target))
        groups = [list(images)] if self.over == "batch" else [[image] for image in images]
        growth = lovasz_weights(logits, target, groups)

        def errors(chunk: Chunk) -> Tensor:
            classes, weights = growth[chunk.image]
            true = (chunk.target == classes[:, None]).to(chunk.logits.dtype)  # (P, n)
            error = (true - chunk.logits.softmax(0).index_select(0, classes)).abs()
            return (error * weights[:, chunk.lines].flatten(1)).sum() / max(1, len(classes))

        counted = 1 if self.over == "batch" else self.weight(target).clamp(min=1).to(logits.device)
        total = chunked_sum(logits, target, errors).sum()
        return (total / counted).to(total.dtype)


@torch.no_grad()
def lovasz_weights(logits: Tensor, target: Tensor, groups: list[list[int]]) -> list[LovaszWeights]:
    """For each image what its errors are weighted with, when those of a group are sorted together."""
    normalizers = torch.cat([chunk.logits.logsumexp(0) for chunk in iterate_chunks(logits, target)]).view(
        target.shape
    )
    collected: list[LovaszWeights] = []
    for group in groups:
        label = target[group]  # (G, H, W)
        scored = label != ignore_index(logits.shape[1])
        classes = label[scored].unique()
        weights = normalizers.new_zeros(len(classes), *label.shape)
        for weight, number in zip(weights, classes.tolist(), strict=True):
            probability = (logits[group, number] - normalizers[group]).exp()
            true = (label == number)[scored]
            error = (true.to(probability.dtype) - probability[scored]).abs()
            weight[scored] = _growth(error, true).to(weight.dtype)
        collected += [LovaszWeights(classes, weights[:, index]) for index in range(len(group))]
    return collected


def _growth(error: Tensor, true: Tensor) -> Tensor:
    """How much the Jaccard loss grows as pixels become wrong, from the largest error down; (n,) float64."""
    order = error.argsort(descending=True, stable=True)
    hit = true[order].cumsum(0)  # integers: CUDA adds them up in a fixed order
    union = true.sum() + torch.arange(1, len(hit) + 1, device=hit.device) - hit
    exact = precision.widest_float_dtype(hit.device)
    jaccard = 1 - (true.sum() - hit).to(exact) / union  # differences of it are too small for float32
    growth = torch.diff(jaccard, prepend=jaccard.new_zeros(1))
    return torch.empty_like(growth).index_copy_(0, order, growth)


def build(
    num_classes: int,
    *,
    aux_weight: NonNegativeFloat = 0.2,
    over: Literal["image", "batch"] = "image",
) -> Lovasz:
    """Lovasz-softmax, which follows the mIoU itself; best beside cross-entropy or to fine-tune.

    Args:
        num_classes: K.
        aux_weight: of the auxiliary head.
        over: the pixels whose IoU is taken together; those of each image, or of all images that go through
            the network together.
    """
    return Lovasz(num_classes, aux_weight=aux_weight, over=over)
