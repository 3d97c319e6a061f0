"""Which parameters are trained, at which rates, and their moving average (EMA).

A parameter belongs to the first stage whose output depends on it. Autograd finds this for any backbone with
four stages, whatever the names of its modules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from segkit.models.network import Segmenter
from segkit.training.schedule import Schedule

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


def freeze(model: Segmenter, schedule: Schedule) -> None:
    """Freeze the first stages of the backbone, and with ``freeze_norm`` every batch normalization."""
    if schedule.freeze:
        for parameter, stage in first_stage_of_parameters(model).items():
            if stage <= schedule.freeze:
                parameter.requires_grad = False
    if schedule.freeze_norm:
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


def parameter_groups(model: Segmenter, schedule: Schedule) -> list[dict[str, Any]]:
    """Return parameter groups: backbone (or its stages) and heads, each with and without weight decay.

    With ``layer_decay`` each stage has this share of the rate of the next (Howard and Ruder 2018).

    Returns:
        Groups with ``name`` ("backbone" or "backbone_4" to "backbone_1", "head", each also with "_no_decay")
        and ``base_lr`` beside the usual keys, without frozen parameters.
    """
    backbone_ids = {id(parameter) for parameter in model.backbone.parameters()}
    stages = first_stage_of_parameters(model) if schedule.layer_decay != 1 else {}
    groups: dict[str, dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        name, rate = "head", schedule.lr * schedule.head_lr_multiplier
        if id(parameter) in backbone_ids:
            name, rate = "backbone", schedule.lr
        if stage := stages.get(parameter):
            name, rate = f"backbone_{stage}", schedule.lr * schedule.layer_decay ** (STAGES - stage)
        exempt = parameter.ndim == 1 and not schedule.decay_norm_and_bias
        key = f"{name}_no_decay" if exempt else name
        group = groups.setdefault(key, {"params": [], "name": key, "lr": rate, "base_lr": rate})
        group["params"].append(parameter)
        if exempt:
            group["weight_decay"] = 0.0
    ordered = list(groups.values())
    if stages:  # the last stage first: logs show the rate of the first group
        ordered.sort(key=lambda group: (group["name"].startswith("head"), -group["lr"]))
    return ordered


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore the momenta of an optimizer; its settings other than ``lr`` are unchanged.

    Raises:
        ValueError: the state is of another optimizer or model.
    """
    own = [dict(group) for group in optimizer.param_groups]
    if [_describe(group) for group in own] != [_describe(group) for group in state["param_groups"]]:
        raise ValueError(
            "the checkpoint is of another optimizer, or other parameters are frozen. Resume with"
            " schedule.optimizer and schedule.freeze of the run, or start a new run_name=... from its weights"
            " with model.weights=FILE."
        )
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value is not None and value.shape not in (parameter.shape, ()):
                raise ValueError(
                    f"the checkpoint is of another optimizer: {name} has shape {tuple(value.shape)} for a"
                    f" weight of {tuple(parameter.shape)}"
                )
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update({key: value for key, value in settings.items() if key != "lr"})


def _describe(group: dict[str, Any]) -> tuple[str, int, set[str]]:
    return group["name"], len(group["params"]), set(group)


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, *, decay: float, iteration: int) -> None:
    """Update the EMA: a <- d a + (1 - d) w, batch statistics included.

    Early on, at iterations t from 0, ``d`` is (1 + t) / (10 + t) instead of ``decay``, so that the average
    forgets the random start.
    """
    share = 1 - min(decay, (1 + iteration) / (10 + iteration))
    pairs = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
    averages, weights = [], []
    for old, new in pairs:
        if old.is_floating_point():
            averages.append(old)
            weights.append(new)
        else:
            old.copy_(new)
    torch._foreach_lerp_(averages, weights, share)  # pyright: ignore[reportPrivateImportUsage]
