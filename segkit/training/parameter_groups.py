"""Parameter groups of a segmenter, and the moving average of its weights."""

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
    """Groups for an optimizer: backbone (or its stages) and heads, each with and without weight decay.

    Args:
        model: everything outside ``model.backbone`` counts as head.
        lr: of the backbone.
        head_lr_multiplier: heads start from scratch; the original recipe gives them 10 times the rate.
        decay_norm_and_bias: whether one-dimensional parameters decay too, as the original recipe has it.
        layer_decay: below 1, each stage of the backbone has so much of the rate of the stage after it (Howard
            and Ruder 2018); the last has ``lr``, and the heads keep theirs.

    Returns:
        Groups with ``name`` ("backbone" or "backbone_4" to "backbone_1", "head", and with "_no_decay") and
        ``base_lr`` beside the usual keys; frozen parameters are in none.
    """
    of_backbone = {id(parameter) for parameter in model.backbone.parameters()}
    stages = first_stage_of_parameters(model) if layer_decay != 1 else {}
    groups: dict[str, dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        name = "backbone" if id(parameter) in of_backbone else "head"
        rate = lr if name == "backbone" else lr * head_lr_multiplier
        if stage := stages.get(parameter):
            name, rate = f"backbone_{stage}", lr * layer_decay ** (STAGES - stage)
        exempt = parameter.ndim == 1 and not decay_norm_and_bias
        key = f"{name}_no_decay" if exempt else name
        group = groups.setdefault(key, {"params": [], "name": key, "lr": rate, "base_lr": rate})
        group["params"].append(parameter)
        if exempt:
            group["weight_decay"] = 0.0
    found = list(groups.values())
    if stages:  # the first is shown as the run's: the last stage has ``lr``
        found.sort(key=lambda group: (group["name"].startswith("head"), -group["lr"]))
    return found


def parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All that an optimizer moves."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimizer its momenta back; settings such as the weight decay stay as they are.

    ``lr`` is that of the last step until the next one sets it, as in a run that was never interrupted.

    Raises:
        ValueError: the state is of another optimizer or model; what differs is named.
    """
    own = [dict(group) for group in optimizer.param_groups]
    files.check_state_matches(_kept(own), _kept(state["param_groups"]), "optimizer")
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value is not None and value.shape not in (parameter.shape, ()):
                raise ValueError(
                    f"the checkpoint is of another optimizer: {name} has shape {tuple(value.shape)} for a"
                    f" weight of {tuple(parameter.shape)}"
                )
    for group, now in zip(optimizer.param_groups, own, strict=True):
        group.update({key: value for key, value in now.items() if key != "lr"})


def _kept(groups: list[dict[str, Any]]) -> dict[str, None]:
    """Names of what an optimizer knows of each of its groups."""
    keys = [(group, key) for group in groups for key in group if key not in ("params", "name")]
    return {f"{group['name']} ({len(group['params'])} tensors): {key}": None for group, key in keys}


def make_ema(model: Model) -> Model:
    """A copy of a model to hold the moving average of its weights, in evaluation mode."""
    return copy.deepcopy(model).eval().requires_grad_(requires_grad=False)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, *, decay: float, iteration: int) -> None:
    """Move the average towards the model: a <- d a + (1 - d) w, batch statistics included.

    Early on ``d`` is (1 + t) / (10 + t), so that the average does not remember the random start.

    Args:
        average: made by ``make_ema``.
        model: the model after its step.
        decay: the final ``d``.
        iteration: t, from 0.
    """
    share = 1 - min(decay, (1 + iteration) / (10 + iteration))
    pairs = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
    kept, fresh = [], []
    for old, new in pairs:
        if old.is_floating_point():
            kept.append(old)
            fresh.append(new)
        else:
            old.copy_(new)
    torch._foreach_lerp_(kept, fresh, share)  # pyright: ignore[reportPrivateImportUsage]
