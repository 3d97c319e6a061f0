"""Parameter groups of a segmenter, and the EMA of its weights."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn

from segkit.models.network import Segmenter
from segkit.runtime import files
from segkit.training.freezing import STAGES, first_stage_of_parameters

Model = TypeVar("Model", bound=nn.Module)


def parameter_groups(
    model: Segmenter,
    *,
    lr: float,
    head_lr_multiplier: float,
    decay_norm_and_bias: bool,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Return parameter groups: backbone (or its stages) and heads, each with and without weight decay.

    Args:
        model: everything outside ``model.backbone`` is head.
        lr: of the backbone.
        head_lr_multiplier: of the heads, which start from scratch; 10 in the original recipe.
        decay_norm_and_bias: apply weight decay to one-dimensional parameters, as in the original recipe.
        layer_decay: rate of a stage of the backbone over that of the next stage (Howard and Ruder 2018).

    Returns:
        Groups with ``name`` ("backbone" or "backbone_4" to "backbone_1", "head", each also with "_no_decay")
        and ``base_lr`` beside the usual keys, without frozen parameters.
    """
    backbone_ids = {id(parameter) for parameter in model.backbone.parameters()}
    stages = first_stage_of_parameters(model) if layer_decay != 1 else {}
    groups: dict[str, dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        name, rate = "head", lr * head_lr_multiplier
        if id(parameter) in backbone_ids:
            name, rate = "backbone", lr
        if stage := stages.get(parameter):
            name, rate = f"backbone_{stage}", lr * layer_decay ** (STAGES - stage)
        exempt = parameter.ndim == 1 and not decay_norm_and_bias
        key = f"{name}_no_decay" if exempt else name
        group = groups.setdefault(key, {"params": [], "name": key, "lr": rate, "base_lr": rate})
        group["params"].append(parameter)
        if exempt:
            group["weight_decay"] = 0.0
    ordered = list(groups.values())
    if stages:  # the last stage first: logs show the rate of the first group
        ordered.sort(key=lambda group: (group["name"].startswith("head"), -group["lr"]))
    return ordered


def optimizer_parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return the parameters of an optimizer."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore the momenta of an optimizer; its settings other than ``lr`` are unchanged.

    Raises:
        ValueError: the state is of another optimizer or model; the message names the difference.
    """
    own = [dict(group) for group in optimizer.param_groups]
    files.check_state_matches(_describe_groups(own), _describe_groups(state["param_groups"]), "optimizer")
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


def _describe_groups(groups: list[dict[str, Any]]) -> dict[str, None]:
    """Return the names, sizes and settings of parameter groups, as keys to compare."""
    keys = [(group, key) for group in groups for key in group if key not in ("params", "name")]
    return {f"{group['name']} ({len(group['params'])} tensors): {key}": None for group, key in keys}


def make_ema(model: Model) -> Model:
    """Return a copy of a model for the EMA of its weights, in evaluation mode."""
    return copy.deepcopy(model).eval().requires_grad_(requires_grad=False)


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
