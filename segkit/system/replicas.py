"""A model in every process: gradients are averaged, and statistics of batches shared."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import torch
from torch import Tensor, nn

from segkit.system import distributed


def replicated(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with gradients averaged, and batch statistics shared, over the processes.

    Raises:
        ValueError: it has a normalisation whose statistics cannot be shared.
    """
    if distributed.world_size() == 1:
        return model
    model = with_shared_statistics(model, device)
    where = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=where)


def with_shared_statistics(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with every batch normalisation over the images of all processes.

    Raises:
        ValueError: a normalisation of another kind, which would be replaced by a plain one.
    """
    shared = {kind.forward: kind for kind in (SharedBatchNorm, SharedBatchNormAct)}
    shared[nn.BatchNorm2d.forward], convert = SharedBatchNorm, nn.SyncBatchNorm.convert_sync_batchnorm
    if timm := sys.modules.get(
        "timm.layers"
    ):  # torch's conversion loses the activation inside a norm of timm
        shared[timm.BatchNormAct2d.forward], convert = SharedBatchNormAct, timm.convert_sync_batchnorm
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        if type(norm).forward not in shared:
            raise ValueError(
                f"several processes: {type(norm).__name__} is a batch normalisation of its own, whose"
                " statistics cannot be shared; train it in one process"
            )
    if device.type == "cuda":
        return convert(model)
    for norm in norms:  # torch's SyncBatchNorm has no CPU kernels
        norm.__class__ = shared[type(norm).forward]
    return model


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the statistics of all processes' images, by torch's kernels for a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        if not self.training:
            return super().forward(input)
        normalised, mean, variance, count = _Normalisation.apply(input, self.weight, self.bias, self.eps)
        self._remember(mean, variance * count / (count - 1))
        return normalised

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class SharedBatchNormAct(SharedBatchNorm):
    """timm's normalisation with an activation inside."""

    act: nn.Module
    drop: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Normalise and activate (B, C, H, W)."""
        return self.act(self.drop(super().forward(input)))


class _Normalisation(torch.autograd.Function):
    """Normalised maps, and the mean (C), variance (C) and count of values of all processes.

    Losses of the processes add up, so the gradient of a map has sums over all processes in it.
    """

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, ...]:
        stored, weight, bias, eps = given
        x = _exact(stored)
        own = torch.batch_norm_update_stats(x, None, None, 0.0)
        rows = distributed.gather_rows(torch.cat([*own, x.new_tensor([x.numel() / x.shape[1]])]))
        means, variances = rows[:, :-1].chunk(2, 1)
        shares = rows[:, -1:] / rows[:, -1].sum()
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)  # Chan et al., 1979
        count = rows[:, -1].sum()
        ctx.save_for_backward(stored, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        normalised = nn.functional.batch_norm(x, mean, variance, weight, bias, eps=eps)
        return normalised.to(stored.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        stored, weight, mean, variance, count = ctx.saved_tensors
        x, grad = _exact(stored), _exact(grad_outputs[0])
        where = x, weight, mean, variance, None, None, False, ctx.eps
        sums = torch.ops.aten.native_batch_norm_backward(grad, *where, [False, True, True])[1:]
        means = (distributed.all_reduce_sum(torch.cat(sums)) / count).chunk(2)
        common = nn.functional.batch_norm(x, mean, variance, *means, eps=ctx.eps)
        scale = weight * torch.rsqrt(variance + ctx.eps)
        inner = torch.sub(grad, common, out=common).mul_(scale[:, None, None])
        return inner.to(stored.dtype), *sums, None


def _exact(maps: Tensor) -> Tensor:
    """At least float32."""
    return maps if maps.dtype == torch.float64 else maps.float()


def gradients_stay_here(runner: nn.Module, *, unless: bool) -> contextlib.AbstractContextManager[None]:
    """No exchange of gradients between processes before a batch's last part."""
    keep = getattr(runner, "no_sync", contextlib.nullcontext)
    return contextlib.nullcontext() if unless else keep()
