"""Any backbone of timm (the extra ``segkit[timm]``) with maps of strides 4, 8, 16 and 32; dilated exactly."""

from __future__ import annotations

import copy
import difflib
import logging
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.config import Fraction, PathStr
from segkit.models.dilate import dilate
from segkit.models.network import IMAGENET_MEAN, IMAGENET_STD
from segkit.models.stems import match_weight_bands
from segkit.models.weights import load_state, read_weights_file
from segkit.runtime.download import resolve_source
from segkit.runtime.text import first_line

LOG = logging.getLogger("segkit")

STRIDES = (4, 8, 16, 32)
EVEN = (96, 160)  # sides that every network takes which is not made for one size
ODD = ((65, 97), (1, 1))  # sides that show whether a network rounds its sizes up
ANY_SIZE = {  # families built for one size of image, and what lets them take others
    "swin_transformer": {"strict_img_size": False},
    "swin_transformer_v2": {"strict_img_size": False},
    "swin_transformer_v2_cr": {"strict_img_size": False},
}


class TimmBackbone(nn.Module):
    """A network of timm with the four stages that our heads read.

    Attributes:
        body: timm's own module; its names are those of timm's ``features_only``.
        out_channels, output_stride: as of every backbone.
    """

    def __init__(self, body: Any, output_stride: int) -> None:
        super().__init__()
        self.body, self.output_stride = body, output_stride
        strides = body.feature_info.reduction()
        self.picked = [max(i for i, s in enumerate(strides) if s == stride) for stride in STRIDES]
        self.out_channels = [body.feature_info.channels()[i] for i in self.picked]
        self.channels_last = getattr(getattr(body, "output_fmt", None), "value", "NCHW") == "NHWC"
        self.padded = False

    def stages(self, maps: list[Tensor]) -> list[Tensor]:
        """Those of the network's maps that are stages, as (B, C, h, w)."""
        picked = [maps[i] for i in self.picked]
        return [m.permute(0, 3, 1, 2).contiguous() for m in picked] if self.channels_last else picked

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalized image (B, 3, H, W) to four stages (B, C_i, H/s_i, W/s_i), sizes rounded up."""
        if not self.padded:
            return self.stages(self.body(image))
        height, width = image.shape[2:]
        # rounded up without negative numbers, which exported files divide in another way
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
    """A backbone of timm.

    Args:
        variant: timm's name of a model, on request with the tag of its weights, as ``resnet50.a1_in1k``.
        output_stride: pixels per cell of the last stage; below 32 the network is dilated, which is tried out.
        drop_path: share of the samples for which a block is left out in training, rising to this in the last.
        weights: "imagenet" for what timm publishes for the variant (kept in timm's own cache), a path,
            ``file://`` or ``http(s)://`` of a state dict with timm's names; None starts from scratch.

    Raises:
        ValueError: timm or the variant is not there, its stages are others, it cannot be dilated, or the
            weights do not fit.
        OSError: published weights could not be had.
    """
    timm = _timm()
    if not timm.is_model(variant):
        close = difflib.get_close_matches(variant, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"model.backbone.variant={variant}: timm {timm.__version__} has no such model{hint}")
    body = _created(timm, variant, drop_path, published=weights == "imagenet")
    _refuse_other_stages(body, variant)
    network = TimmBackbone(body, output_stride)
    network.padded = not _rounds_up(network, variant)
    if output_stride < 32:
        try:
            dilate(network.body, output_stride, network.stages)
        except ValueError as error:
            raise ValueError(
                f"model.backbone.output_stride={output_stride}: {variant} of timm cannot be dilated: {error};"
                " model.backbone.output_stride=32 works, under every head"
            ) from error
    if weights is not None and weights != "imagenet":
        _load_file(timm, body, variant, weights)
    return network


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"model/backbone=timm: timm is missing ({error}); pip install 'segkit[timm]'"
        ) from error
    return timm


def _created(timm: Any, variant: str, drop_path: float, *, published: bool) -> Any:
    """Timm's network that gives all of its maps.

    Raises:
        ValueError: timm has no maps of it, or no weights for it.
        OSError: the weights could not be had.
    """
    family = timm.models.model_entrypoint(variant.split(".")[0]).__module__.rsplit(".", 1)[-1]
    settings = {**ANY_SIZE.get(family, {}), **({"drop_path_rate": drop_path} if drop_path else {})}
    address = timm.get_pretrained_cfg(variant)
    logging.getLogger("timm").setLevel(logging.ERROR)  # which warns of the classifier that is left out
    if published and not (address and (address.hf_hub_id or address.url)):
        raise ValueError(
            f"model.backbone.weights=imagenet: timm publishes none for {variant}; give a path or null"
        )
    try:
        body = timm.create_model(variant, features_only=True, pretrained=published, **settings)
    except Exception as error:  # whatever its constructors, its downloads or their libraries raise
        reason = first_line(error)
        if published:
            raise OSError(_how_to_fetch(address, reason)) from error
        raise ValueError(
            f"model.backbone.variant={variant}: timm gives no maps of its stages ({reason})"
        ) from error
    if published and (tuple(address.mean), tuple(address.std)) != (IMAGENET_MEAN, IMAGENET_STD):
        mean, std = (",".join(f"{value:g}" for value in values) for values in (address.mean, address.std))
        LOG.warning("%s was trained with other colors: model.mean=[%s] model.std=[%s]", variant, mean, std)
    return body


def _how_to_fetch(address: Any, reason: str) -> str:
    """What to do without a network: the file, and where it goes."""
    file = f"model.safetensors of {address.hf_hub_id}" if address.hf_hub_id else address.url
    return (
        f"model.backbone.weights=imagenet: cannot fetch {file} ({reason}); fetch it some other way and give"
        " it with model.backbone.weights=FILE, or put it into timm's cache ($HF_HOME or $TORCH_HOME)"
    )


def _refuse_other_stages(body: Any, variant: str) -> None:
    strides = body.feature_info.reduction()
    if missing := [stride for stride in STRIDES if stride not in strides]:
        words = [", ".join(map(str, numbers)) for numbers in (strides, missing)]
        raise ValueError(
            f"model.backbone.variant={variant}: our heads read four stages of strides 4, 8, 16, 32; the"
            f" maps of this one have strides {words[0]}, without {words[1]}; choose one such as "
            "convnext_tiny, resnet50d, efficientnet_b0 or swin_tiny_patch4_window7_224"
        )


def _load_file(timm: Any, body: nn.Module, variant: str, weights: str) -> None:
    """Weights under the names of timm's classifier, or of a segmenter on this backbone."""
    path = resolve_source(weights)
    state = read_weights_file(path).state
    prefix = "backbone.body."
    if any(name.startswith(prefix) for name in state):
        state = {n.removeprefix(prefix): tensor for n, tensor in state.items() if n.startswith(prefix)}
    own = {_plain(name): name for name in body.state_dict()}
    state = {own.get(_plain(name), name): tensor for name, tensor in state.items()}
    whole = timm.create_model(variant).state_dict()
    unused = tuple(name for name in whole if _plain(name) not in own)  # the classifier, and what leads to it
    match_weight_bands(body, state)
    load_state(body, state, source=path, optional=unused)


def _plain(name: str) -> str:
    """``features_only`` says ``stages_0`` or ``model.stages.0`` where the classifier says ``stages.0``."""
    return name.removeprefix("model.").replace("_", ".")


def _rounds_up(network: TimmBackbone, variant: str) -> bool:
    """Whether the network takes sides of any length, and its maps have those over the stride, rounded up.

    Raises:
        ValueError: it takes images of one size alone.
    """
    shadow = copy.deepcopy(network).to("meta").eval()

    def right(sides: tuple[int, int]) -> bool:
        stages = shadow(torch.empty(1, 3, *sides, device="meta"))
        rounded = [tuple(-(-side // stride) for side in sides) for stride in STRIDES]
        return [tuple(stage.shape[2:]) for stage in stages] == rounded

    try:
        fits = right(EVEN)
    except Exception as error:  # of maps that do not fit one another, in many words
        raise ValueError(
            f"model.backbone.variant={variant}: this model does not take images of any size "
            f"({first_line(error)}); choose one that does, such as convnext_tiny, efficientnet_b0 or "
            "swin_tiny_patch4_window7_224"
        ) from error
    if not fits:
        raise ValueError(
            f"model.backbone.variant={variant}: its maps are smaller or larger than their strides say"
        )
    if any(type(module).__name__ == "Conv2dSame" for module in shadow.modules()):
        return False  # whose first tap depends on whether a side is odd
    try:
        return all(map(right, ODD))
    except Exception:
        return False
