"""Which parts of a network stay as they are, and through which stages its parameters speak.

A backbone is asked, not read: a parameter belongs to the first stage whose output its gradient comes from. So
this holds for any backbone that gives four stages, whatever it calls its parts.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from segkit.models.network import Segmenter

STAGES = 4
SIDE = 224  # pixels of the image that is sent through: networks of one size take this one


def first_stage_of_parameters(model: Segmenter) -> dict[nn.Parameter, int]:
    """The stage, 1 to 4, of each of the backbone's parameters that moves; the stem counts with the first."""
    left = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
    found: dict[nn.Parameter, int] = {}
    modes = {module: module.training for module in model.backbone.modules()}
    model.backbone.eval()  # batch statistics stay, and one image is enough
    image = torch.zeros(1, model.in_channels, SIDE, SIDE, device=model.mean.device)
    with torch.enable_grad():
        for stage, features in enumerate(model.backbone(image), start=1):
            if not left or not features.requires_grad:  # all parameters up to here are frozen
                continue
            scalar = features.float().sum()
            gradients = torch.autograd.grad(scalar, left, retain_graph=True, allow_unused=True)
            reached = [p for p, gradient in zip(left, gradients, strict=True) if gradient is not None]
            found |= dict.fromkeys(reached, stage)
            left = [parameter for parameter in left if parameter not in found]
    for module, mode in modes.items():
        module.training = mode
    return found | dict.fromkeys(left, STAGES)  # of use to none of them, as a classifier is


def freeze(model: Segmenter, *, stages: int, norms: bool) -> None:
    """Let parameters have no gradient.

    Args:
        model: of any backbone.
        stages: of the backbone from its stem, 0 for none.
        norms: whether every batch normalization is frozen, those of the heads too.
    """
    for parameter, stage in first_stage_of_parameters(model).items() if stages else ():
        if stage <= stages:
            parameter.requires_grad = False
    for module in model.modules() if norms else ():
        if isinstance(module, _BatchNorm):
            for parameter in module.parameters():
                parameter.requires_grad = False


def frozen_modules(model: nn.Module, *, norms: bool) -> list[nn.Module]:
    """The modules that a step leaves in evaluation mode: what is frozen whole, with statistics and dropout.

    Args:
        model: frozen, and wrapped for several processes, which may replace modules.
        norms: as for ``freeze``.
    """
    parameters = list(model.parameters())
    if (norms and isinstance(model, _BatchNorm)) or (
        parameters and not any(parameter.requires_grad for parameter in parameters)
    ):
        return [model]
    return [found for child in model.children() for found in frozen_modules(child, norms=norms)]
