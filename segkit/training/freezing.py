"""Freeze stages of a backbone and batch normalization.

A parameter belongs to the first stage whose output depends on it. Autograd finds this for any backbone with
four stages, whatever the names of its modules.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from segkit.models.network import Segmenter

STAGES = 4
SIDE = 224  # pixels of the test image; networks of one input size take this one


def first_stage_of_parameters(model: Segmenter) -> dict[nn.Parameter, int]:
    """Return the stage, 1 to 4, of each trainable parameter of the backbone; the stem belongs to the first.

    Parameters that no stage depends on, such as those of a classifier, get the last one.
    """
    remaining = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
    stage_of: dict[nn.Parameter, int] = {}
    modes = {module: module.training for module in model.backbone.modules()}
    model.backbone.eval()  # batch statistics do not change, and one image is enough
    image = torch.zeros(1, model.in_channels, SIDE, SIDE, device=model.mean.device)
    with torch.enable_grad():
        for stage, features in enumerate(model.backbone(image), start=1):
            if not remaining or not features.requires_grad:  # all parameters up to here are frozen
                continue
            total = features.float().sum()
            gradients = torch.autograd.grad(total, remaining, retain_graph=True, allow_unused=True)
            for parameter, gradient in zip(remaining, gradients, strict=True):
                if gradient is not None:
                    stage_of[parameter] = stage
            remaining = [parameter for parameter in remaining if parameter not in stage_of]
    for module, mode in modes.items():
        module.training = mode
    return stage_of | dict.fromkeys(remaining, STAGES)


def freeze(model: Segmenter, *, stages: int, norms: bool) -> None:
    """Set ``requires_grad`` of parameters to False.

    Args:
        model: with any backbone.
        stages: number of stages of the backbone, counted from the stem; 0 for none.
        norms: whether to freeze every batch normalization, including those of the heads.
    """
    if stages:
        for parameter, stage in first_stage_of_parameters(model).items():
            if stage <= stages:
                parameter.requires_grad = False
    if norms:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.requires_grad_(requires_grad=False)


def frozen_modules(model: nn.Module, *, norms: bool) -> list[nn.Module]:
    """Return the largest modules that are entirely frozen; they stay in evaluation mode.

    Call it after the model was wrapped for several processes, which may replace modules.
    """
    parameters = list(model.parameters())
    is_frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
    if is_frozen or (norms and isinstance(model, _BatchNorm)):
        return [model]
    return [module for child in model.children() for module in frozen_modules(child, norms=norms)]
