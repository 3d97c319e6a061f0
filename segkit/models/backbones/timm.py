"""Any timm model with maps of strides 4, 8, 16 and 32 as a backbone (the extra ``segkit[timm]``)."""

from __future__ import annotations

import copy
import difflib
import logging
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.config import Fraction, PathStr
from segkit.models import packaged_weights
from segkit.models.checkpoint_formats import State
from segkit.models.dilate import dilate, fix_same_padding
from segkit.models.stems import match_weight_bands
from segkit.models.weights import load_state, read_weights_file
from segkit.runtime.download import resolve_source
from segkit.runtime.extras import import_extra
from segkit.runtime.text import first_line
from segkit.types import IMAGENET_MEAN, IMAGENET_STD

STRIDES = (4, 8, 16, 32)
EVEN_SIZE = (96, 160)  # multiples of 32
ODD_SIZES = ((65, 97), (1, 1))  # these show if a network rounds sizes up
SUGGESTION = "Choose another, such as convnext_tiny, efficientnet_b0 or swin_tiny_patch4_window7_224"


class TimmBackbone(nn.Module):
    """A timm model that returns four stages.

    Attributes:
        body: the module of timm, with the names of ``features_only``.
        out_channels, output_stride: as in every backbone.
        normalization: mean and standard deviation of RGB in 0..1 that the published weights expect.
        padded: pad images to multiples of 32, as the network does not round sizes up.
    """

    def __init__(self, body: Any, output_stride: int) -> None:
        super().__init__()
        self.body, self.output_stride = body, output_stride
        strides = body.feature_info.reduction()
        self.stage_indices = [max(i for i, s in enumerate(strides) if s == stride) for stride in STRIDES]
        self.out_channels = [body.feature_info.channels()[i] for i in self.stage_indices]
        self.channels_last = getattr(getattr(body, "output_fmt", None), "value", "NCHW") == "NHWC"
        self.normalization = IMAGENET_MEAN, IMAGENET_STD
        self.padded = False

    def stages(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the maps that are stages, as (B, C, h, w)."""
        stages = [maps[i] for i in self.stage_indices]
        if self.channels_last:
            return [stage.permute(0, 3, 1, 2).contiguous() for stage in stages]
        return stages

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return four stages (B, C_i, H/s_i, W/s_i), sizes rounded up, of a normalized image (B, 3, H, W)."""
        if not self.padded:
            return self.stages(self.body(image))
        height, width = image.shape[2:]
        # No -(-x // 32): exported files divide negative numbers in another way.
        right, below = ((side + 31) // 32 * 32 - side for side in (width, height))
        maps = self.stages(self.body(F.pad(image, (0, right, 0, below))))
        strides = [min(stride, self.output_stride) for stride in STRIDES]
        sizes = [((height + s - 1) // s, (width + s - 1) // s) for s in strides]
        return [m[:, :, :h, :w] for m, (h, w) in zip(maps, sizes, strict=True)]


def build(
    *,
    variant: str,
    output_stride: Literal[8, 16, 32] = 32,
    drop_path: Fraction = 0.0,
    weights: PathStr | None = None,
) -> TimmBackbone:
    """Build a backbone of timm.

    Args:
        variant: timm's name of a model, optionally with the tag of its weights: ``resnet50.a1_in1k``.
        output_stride: pixels per cell of the last stage; below 32 the network is dilated and checked.
        drop_path: probability of dropping a block in training (stochastic depth).
        weights: "imagenet" for those that timm publishes, in timm's own cache, or that a package contains
            (``segkit.models.packaged_weights``), or a file with timm's names.

    Raises:
        ValueError: timm is missing, or the variant is unknown or has other stages or cannot be dilated, or
            the weights do not fit.
        OSError: published weights could not be downloaded.
    """
    timm = import_extra("timm", extra="timm", needed_by="model/backbone=timm")
    if not timm.is_model(variant):
        close = difflib.get_close_matches(variant, timm.list_models(), n=3)
        hint = f". Did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"model.backbone.variant={variant}: timm {timm.__version__} has no such model{hint}")
    is_packaged = weights == "imagenet" and variant in packaged_weights.SHA256
    body = _create_body(timm, variant, drop_path, published=weights == "imagenet" and not is_packaged)
    network = TimmBackbone(body, output_stride)
    if (config := timm.get_pretrained_cfg(variant)) is not None:
        network.normalization = tuple(config.mean), tuple(config.std)
    network.padded = not _check_sizes(network, variant)
    if network.padded:
        fix_same_padding(body)
    if output_stride < 32:
        try:
            dilate(body, output_stride, network.stages)
        except ValueError as error:
            raise ValueError(
                f"model.backbone.output_stride={output_stride}: {variant} of timm cannot be dilated: {error}."
                " Set model.backbone.output_stride=32, which works with every head"
            ) from error
    if is_packaged:
        path = packaged_weights.packaged_weights_path(variant)
        names = timm.create_model(variant).state_dict()  # in the order of the tensors in the file
        state = dict(zip(names, read_weights_file(path).state.values(), strict=True))
        _load_classifier(timm, body, variant, state, path)
    elif weights not in (None, "imagenet"):
        path = resolve_source(weights)
        _load_classifier(timm, body, variant, read_weights_file(path).state, path)
    return network


def _create_body(timm: Any, variant: str, drop_path: float, *, published: bool) -> Any:
    """Return timm's network with all of its maps as output.

    Raises:
        ValueError: timm returns no maps of this network, or of other strides, or has no weights for it.
        OSError: the weights could not be downloaded.
    """
    settings: dict[str, Any] = {}
    if variant.startswith("swin"):  # otherwise built for one image size
        settings["strict_img_size"] = False
    if drop_path:
        settings["drop_path_rate"] = drop_path
    config = timm.get_pretrained_cfg(variant)
    logging.getLogger("timm").setLevel(logging.ERROR)  # it warns that the classifier is left out
    if published and not (config and (config.hf_hub_id or config.url)):
        raise ValueError(
            f"model.backbone.weights=imagenet: timm publishes none for {variant}. Give a path or null"
        )
    try:
        body = timm.create_model(variant, features_only=True, pretrained=published, **settings)
    except Exception as error:  # of its constructors, downloads and their libraries
        reason = first_line(error)
        if published:
            file = f"model.safetensors of {config.hf_hub_id}" if config.hf_hub_id else config.url
            raise OSError(
                f"model.backbone.weights=imagenet: cannot download {file} ({reason}). Download it elsewhere "
                "and set model.backbone.weights=FILE, or put it into timm's cache ($HF_HOME or $TORCH_HOME)"
            ) from error
        raise ValueError(
            f"model.backbone.variant={variant}: timm returns no maps of its stages ({reason})"
        ) from error
    strides = body.feature_info.reduction()
    if not set(STRIDES) <= set(strides):
        raise ValueError(
            f"model.backbone.variant={variant}: needs maps of strides 4, 8, 16, 32; this model has "
            f"{', '.join(map(str, strides))}. {SUGGESTION}"
        )
    return body


def _load_classifier(timm: Any, body: nn.Module, variant: str, state: State, path: Path) -> None:
    """Load weights with the names of timm's classifier, or of a segmenter on this backbone.

    The layers of the classifier after the last stage are left out.
    """
    prefix = "backbone.body."
    if any(name.startswith(prefix) for name in state):
        state = {n.removeprefix(prefix): tensor for n, tensor in state.items() if n.startswith(prefix)}
    own = {_normalize_name(name): name for name in body.state_dict()}
    state = {own.get(_normalize_name(name), name): tensor for name, tensor in state.items()}
    classifier = timm.create_model(variant).state_dict()
    unused = tuple(name for name in classifier if _normalize_name(name) not in own)
    match_weight_bands(body, state)
    load_state(body, state, source=path, optional=unused)


def _normalize_name(name: str) -> str:
    """Return the same for ``stages_0`` and ``model.stages.0`` of ``features_only`` and ``stages.0``."""
    return name.removeprefix("model.").replace("_", ".")


def _check_sizes(network: TimmBackbone, variant: str) -> bool:
    """Return whether the maps of images of any size have that size over the stride, rounded up.

    Raises:
        ValueError: it takes images of one size only, or its strides are wrong.
    """
    network = copy.deepcopy(network).to("meta").eval()

    def rounds_up(sides: tuple[int, int]) -> bool:
        stages = network(torch.empty(1, 3, *sides, device="meta"))
        rounded = [tuple(-(-side // stride) for side in sides) for stride in STRIDES]
        return [tuple(stage.shape[2:]) for stage in stages] == rounded

    try:
        if not rounds_up(EVEN_SIZE):
            raise ValueError("its maps have other sizes")
    except Exception as error:
        raise ValueError(
            f"model.backbone.variant={variant}: must take images of any size ({first_line(error)}). "
            f"{SUGGESTION}"
        ) from error
    if any(type(module).__name__ == "Conv2dSame" for module in network.modules()):
        return False  # its padding depends on whether a side is odd
    try:
        return all(map(rounds_up, ODD_SIZES))
    except Exception:
        return False
