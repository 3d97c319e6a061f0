"""The first convolutions of a network, for images of any number of bands.

Published weights are for RGB. A rule names how they are adapted:

* ``mean``: every band gets the mean of the three filters, times 3 / bands, so that equal bands have the
  logits of a gray image in the RGB network;
* ``first_three``: the first three bands get the filters of red, green and blue, the others random ones;
* ``fresh``: all filters are random.
"""

from __future__ import annotations

import copy
import logging
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from segkit.models.checkpoint_formats import State

LOG = logging.getLogger("segkit")

Rule = Literal["mean", "first_three", "fresh"]

SIDE = 64  # of the image that is used to find the convolutions that read it


def input_convs(network: nn.Module) -> dict[str, nn.Conv2d]:
    """Return the convolutions that read the image, by name; RepVGG, MobileOne and FastViT have several."""
    network_copy = copy.deepcopy(network).eval()
    convolutions = {name: part for name, part in network_copy.named_modules() if isinstance(part, nn.Conv2d)}
    bands = next(iter(convolutions.values())).in_channels
    first: dict[str, nn.Conv2d] = {}

    def add_if_first(name: str, conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].shape[1] == bands and max(inputs[0].shape[2:]) >= SIDE:
            first[name] = network.get_submodule(name)  # pyright: ignore[reportArgumentType]

    for name, conv in convolutions.items():
        conv.register_forward_pre_hook(partial(add_if_first, name))
    with torch.no_grad():
        network_copy(next(network.parameters()).new_zeros(1, bands, SIDE, SIDE))
    return first


def adapt_filters(weight: Tensor, bands: int, rule: Rule) -> Tensor:
    """Adapt filters (C, 3, k, k) to (C, bands, k, k); random ones get the same standard deviation."""
    if rule == "mean":
        return weight.sum(1, keepdim=True).expand(-1, bands, -1, -1).clone() / bands
    fresh = torch.empty(len(weight), bands, *weight.shape[2:]).to(weight).normal_(0, float(weight.std()))
    if rule == "first_three":
        fresh[:, :3] = weight[:, :bands]
    return fresh


def match_weight_bands(network: nn.Module, state: State) -> None:
    """Let a network for RGB read as many bands as a state dict, in place, so that it can be loaded."""
    first = next((name for name, part in network.named_modules() if isinstance(part, nn.Conv2d)), None)
    weight = state.get(f"{first}.weight")
    if weight is not None and weight.ndim == 4 and weight.shape[1] != 3:
        set_input_bands(network, weight.shape[1], "fresh")


def set_input_bands(network: nn.Module, bands: int, rule: Rule) -> None:
    """Let a network read images with this number of bands, in place.

    Raises:
        ValueError: it reads neither RGB nor this number of bands, or its first convolution has groups.
    """
    for name, conv in input_convs(network).items():
        if conv.in_channels == bands:
            continue
        if conv.in_channels != 3 or conv.groups != 1:
            raise ValueError(
                f"model.mean has {bands} values, but {name} of this backbone and its weights reads "
                f"{conv.in_channels} bands in {conv.groups} groups: only a stem of 3 bands in 1 group can be "
                "adapted"
            )
        with torch.no_grad():
            conv.weight = nn.Parameter(adapt_filters(conv.weight, bands, rule))
        LOG.info("%s: adapted from 3 to %d bands (model.stem_weights=%s)", name, bands, rule)
        conv.in_channels = bands


def adapt_stem_weights(state: State, network: nn.Module, prefix: str, rule: Rule) -> State:
    """Return the weights of an RGB network with its first filters adapted to the bands of a network."""
    adapted = dict(state)
    for name, conv in input_convs(network).items():
        key = f"{prefix}{name}.weight"
        weight = state.get(key)
        if weight is None or weight.ndim != 4:
            continue
        if weight.shape[1] == 3 and conv.in_channels != 3:
            adapted[key] = adapt_filters(weight, conv.in_channels, rule)
            LOG.info("%s: adapted from 3 to %d bands (model.stem_weights=%s)", key, conv.in_channels, rule)
    return adapted
