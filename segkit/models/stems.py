"""The first convolutions of a network, which read the image, for images of any number of bands.

Published weights are of RGB. How they are carried over is a rule with a name:

* ``mean``: every band gets the mean of the three, times 3 / bands, so that equal bands give what the RGB
  network says of a gray image;
* ``first_three``: the first three bands are read as red, green and blue were, the others by fresh filters;
* ``fresh``: all filters are drawn anew.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segkit.models.checkpoint_formats import State

LOG = logging.getLogger("segkit")

Rule = Literal["mean", "first_three", "fresh"]

SIDE = 64  # of the image whose run tells which convolutions read it


def input_convs(network: nn.Module) -> dict[str, nn.Conv2d]:
    """The convolutions that read the image itself (RepVGG, MobileOne and FastViT have several), by name."""
    convolutions = {name: part for name, part in network.named_modules() if isinstance(part, nn.Conv2d)}
    bands = next(iter(convolutions.values())).in_channels
    found: dict[str, nn.Conv2d] = {}

    def note(name: str, conv: nn.Conv2d) -> Any:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            if given[0].shape[1] == bands and max(given[0].shape[2:]) >= SIDE:
                found[name] = conv

        return conv.register_forward_pre_hook(hook)

    hooks = [note(name, conv) for name, conv in convolutions.items()]
    training = network.training
    try:
        with torch.no_grad():
            parameter = next(network.parameters())
            network.eval()(parameter.new_zeros(1, bands, SIDE, SIDE))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return found


def adapt_filters(weight: Tensor, bands: int, rule: Rule) -> Tensor:
    """Filters (C, 3, k, k) as filters (C, bands, k, k); fresh ones are as large as those there are."""
    if rule == "mean":
        return weight.sum(1, keepdim=True).expand(-1, bands, -1, -1).clone() / bands
    fresh = torch.empty(len(weight), bands, *weight.shape[2:]).to(weight).normal_(0, float(weight.std()))
    if rule == "first_three":
        fresh[:, :3] = weight[:, :bands]
    return fresh


def match_weight_bands(network: nn.Module, state: State) -> None:
    """Let a network of RGB read the bands that weights are of, in place, so that they can be loaded."""
    first = next((name for name, part in network.named_modules() if isinstance(part, nn.Conv2d)), None)
    weight = state.get(f"{first}.weight")
    if weight is not None and weight.ndim == 4 and weight.shape[1] != 3:
        set_input_bands(network, weight.shape[1], "fresh")


def set_input_bands(network: nn.Module, bands: int, rule: Rule) -> None:
    """Let a network read images of so many bands, in place; nothing happens where it does already.

    Raises:
        ValueError: it reads other bands than RGB already, or its stem is of groups: no rule is for that.
    """
    for name, conv in input_convs(network).items():
        if conv.in_channels == bands:
            continue
        if conv.in_channels != 3 or conv.groups != 1:
            groups = f" in {conv.groups} groups" if conv.groups != 1 else ""
            raise ValueError(
                f"model.mean has {bands} values, and {name} of this backbone and its weights reads "
                f"{conv.in_channels} bands{groups}; only a stem of three can be carried over to others"
            )
        with torch.no_grad():
            conv.weight = nn.Parameter(adapt_filters(conv.weight, bands, rule))
        LOG.info("%s reads %d bands in place of 3, by the rule %s", name, bands, rule)
        conv.in_channels = bands


def adapt_stem_weights(state: State, network: nn.Module, prefix: str, rule: Rule) -> State:
    """Weights of an RGB network for one of other bands: its first filters adapted, the rest as it is."""
    fitted = dict(state)
    for name, conv in input_convs(network).items():
        key = f"{prefix}{name}.weight"
        weight = state.get(key)
        if weight is not None and weight.ndim == 4 and weight.shape[1] == 3 != conv.in_channels:
            fitted[key] = adapt_filters(weight, conv.in_channels, rule)
            LOG.info("%s: from 3 bands to %d, by the rule %s", key, conv.in_channels, rule)
    return fitted
