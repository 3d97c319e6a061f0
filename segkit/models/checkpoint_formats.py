"""Checkpoints of other projects: how they name tensors, and the settings that tensors do not show.

Equal tensors can be different networks: ``align_corners``, the output stride, the multi-grid and the rates of
an ASPP have no weights. torchvision fixes them in its code. mmsegmentation stores its settings as text in the
checkpoint (``meta.config``); where it did not, the file's name is parsed, such as
``deeplabv3_r101-d16-mg124_512x1024_40k_cityscapes``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from segkit.config.hints import write_value

if TYPE_CHECKING:
    from segkit.models.network import Segmenter

State = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]  # pattern and replacement, applied in order

OWN = (
    (r"^pretrained\.", "backbone."),  # zhanghang1989/PyTorch-Encoding
    (r"^auxlayer\.", "auxiliary."),
    (r"\.se\.fc\.0\.", ".attention.fc1."),  # implus/PytorchInsight
    (r"\.se\.fc\.2\.", ".attention.fc2."),
    (r"\.cbam\.ChannelGate\.mlp\.1\.", ".attention.fc1."),  # Jongchan/attention-module
    (r"\.cbam\.ChannelGate\.mlp\.3\.", ".attention.fc2."),
    (r"\.cbam\.SpatialGate\.spatial\.", ".attention."),
    (r"\.(se|sge)\.", ".attention."),
    (r"(layer\d\.\d+)\.conv([13])\.conv\.", r"\1.conv\2."),  # timm's selective kernels
    (r"(layer\d\.\d+)\.conv([13])\.bn\.", r"\1.bn\2."),
)
LINEAR = (".attention.fc1.weight", ".attention.fc2.weight")  # matrices there, 1x1 convolutions here
SK_RESNET = (  # implus/PytorchInsight: the parts of each branch stand directly in the block
    (r"\.conv2\.", ".conv2.paths.0.conv."),
    (r"\.bn2\.", ".conv2.paths.0.bn."),
    (r"\.conv2g\.", ".conv2.paths.1.conv."),
    (r"\.bn2g\.", ".conv2.paths.1.bn."),
    (r"\.conv_fc1\.", ".conv2.attn.fc_reduce."),
    (r"\.bn_fc1\.", ".conv2.attn.bn."),
    (r"\.conv_fc2\.", ".conv2.attn.fc_select."),
)
MMSEG = (
    (r"^((?:backbone\.)?)stem\.7\.", r"\1bn1."),
    (r"^((?:backbone\.)?)stem\.", r"\1conv1."),
    (r"^((?:decode|auxiliary)_head\..+)\.conv\.", r"\1.0."),
    (r"^((?:decode|auxiliary)_head\..+)\.bn\.", r"\1.1."),
    (r"^decode_head\.conv_seg\.", "head.classifier.1."),
    (r"^auxiliary_head\.convs\.0\.", "auxiliary.conv5."),
    (r"^auxiliary_head\.conv_seg\.", "auxiliary.conv5.4."),
)
MMSEG_DEEPLABV3 = (
    *MMSEG,
    (r"^decode_head\.image_pool\.1\.0\.", "head.aspp.b4.gap.1."),
    (r"^decode_head\.image_pool\.1\.1\.", "head.aspp.b4.gap.2."),
    (r"^decode_head\.aspp_modules\.", "head.aspp.b"),
    (r"^decode_head\.bottleneck\.", "head.aspp.project."),
)
MMSEG_UPERNET = (
    (r"^(decode_head\.psp_modules\.\d)\.1\.", r"\1."),
    *MMSEG,
    (r"^decode_head\.", "head."),
)
TORCHVISION = (
    (r"^classifier\.0\.convs\.4\.", "head.aspp.b4.gap."),
    (r"^classifier\.0\.convs\.(\d)\.", r"head.aspp.b\1."),
    (r"^classifier\.0\.project\.", "head.aspp.project."),
    (r"^aux_classifier\.", "auxiliary.conv5."),
)
TORCHVISION_DEEPLABV3 = (
    *TORCHVISION,
    (r"^classifier\.1\.", "head.block.0."),
    (r"^classifier\.2\.", "head.block.1."),
    (r"^classifier\.4\.", "head.block.4."),
)
TORCHVISION_FCN = (*TORCHVISION, (r"^classifier\.", "head.conv5."))


class Format(NamedTuple):
    """A network as another project writes it."""

    name: str  # for messages
    parts: tuple[str | tuple[str, ...], ...]  # beginnings of names that it has, all of them
    rules: Rules
    head: str | None = None  # component of ``models.heads`` that its head loads into, None if there is none


FORMATS = (  # the first that fits
    Format(
        "torchvision's DeepLabV3",
        ("backbone.layer4.", "classifier.0.convs."),
        TORCHVISION_DEEPLABV3,
        "deeplabv3",
    ),
    Format("torchvision's FCN", ("backbone.layer4.", "classifier."), TORCHVISION_FCN, "fcn"),
    Format("a torchvision network on another backbone than ResNet", ("backbone.", "classifier."), ()),
    Format(
        "segmentation_models.pytorch", ("encoder.", "segmentation_head."), ((r"^encoder\.", "backbone."),)
    ),
    Format("mmsegmentation's UPerNet", ("decode_head.fpn_bottleneck.",), MMSEG_UPERNET, "upernet"),
    Format("mmsegmentation's DeepLabV3+", ("decode_head.c1_bottleneck.",), MMSEG),
    Format("mmsegmentation's DeepLabV3", ("decode_head.aspp_modules.",), MMSEG_DEEPLABV3, "deeplabv3_mmseg"),
    Format("another network of mmsegmentation", (("decode_head.", "backbone.stem.", "stem."),), MMSEG),
)
TORCHVISION_SETTINGS = {
    "model.align_corners": False,
    "model.backbone.output_stride": 8,
    "model.backbone.multi_grid": None,
    "model.head.atrous_rates": (12, 24, 36),
}


def detect_format(names: Iterable[str]) -> Format | None:
    """Return the format of a foreign segmenter or of mmsegmentation's backbones; None for all others."""
    names = list(names)

    def has(part: str | tuple[str, ...]) -> bool:
        return any(name.startswith(part) for name in names)

    if has("head."):  # of segkit or PyTorch-Encoding
        return None
    return next((candidate for candidate in FORMATS if all(map(has, candidate.parts))), None)


def is_mmsegmentation(names: Iterable[str]) -> bool:
    """Return whether tensors have the names of mmsegmentation."""
    source = detect_format(names)
    return source is not None and "mmsegmentation" in source.name


def convert_names(state: State) -> State:
    """Return the tensors of any known format under segkit's names.

    Raises:
        ValueError: two names become one.
    """
    source = detect_format(state)
    rules = source.rules if source else OWN
    if any(".conv2g." in name for name in state):
        rules = SK_RESNET + rules
    fuse = "decode_head.bottleneck.conv.weight"
    if "decode_head.image_pool.1.conv.weight" in state and fuse in state and state[fuse].ndim == 4:
        width = len(state[fuse])  # mmsegmentation joins the pooled branch first, segkit last
        state = state | {fuse: state[fuse].roll(-width, 1)}
    converted: State = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if name in converted:
            raise ValueError(f"two tensors of these weights are both called {name}")
        if name.endswith(LINEAR) and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        converted[name] = tensor
    return converted


def check_compatible(model: Segmenter, names: Iterable[str], config: str, path: Path) -> None:
    """Check that a model computes like the network whose whole checkpoint it is to load.

    Args:
        model: takes the weights.
        names: of the tensors in the file.
        config: mmsegmentation's settings as text, or "".
        path: of the file.

    Raises:
        ValueError: it does not; the message names every setting to change.
    """
    source = detect_format(names)
    if source is None:
        return
    if source.head is None:
        raise ValueError(
            f"{path}: contains {source.name}, which cannot be loaded as a whole model. "
            "model.backbone.weights=FILE loads its backbone alone"
        )
    if source.name.startswith("torchvision"):
        origin, required = "torchvision's code", TORCHVISION_SETTINGS
    else:
        origin = "the settings in the file" if config else "the file's name"
        required = parse_mmsegmentation_settings(config, path.name)
    required = {"model/head": source.head, **required}
    current: dict[str, Any] = {
        "model/head": type(model.head).__module__.rsplit(".", 1)[-1],
        "model.align_corners": model.align_corners,
        "model.backbone.output_stride": getattr(model.backbone, "output_stride", None),
        "model.backbone.multi_grid": getattr(model.backbone, "multi_grid", None),
    }
    if hasattr(model.head, "aspp"):
        current["model.head.atrous_rates"] = model.head.aspp.rates  # type: ignore[union-attr]
    changes = [
        f"{key}={write_value(value)}"
        for key, value in required.items()
        if key in current and current[key] != value
    ]
    if changes:
        raise ValueError(
            f"{path}: contains {source.name}, which {origin} defines with other settings than this model "
            f"has. Set {' '.join(changes)}"
        )


def parse_mmsegmentation_settings(config: str, name: str) -> dict[str, Any]:
    """Return the settings that a network of mmsegmentation was trained with, by our keys.

    Args:
        config: the settings in the checkpoint, Python source, or "".
        name: of the file; used if there is no ``config``.
    """
    output_stride = multi_grid = None
    if config:
        align_corners = re.search(r"align_corners\s*=\s*True", config) is not None
        numbers = r"\s*=\s*[(\[]([\d,\s]+)[)\]]"  # a tuple or a list
        if strides := re.search(r"\bstrides" + numbers, config):
            output_stride = 4 * math.prod(map(int, re.findall(r"\d+", strides[1])))
        if grid := re.search(r"\bmulti_grid" + numbers, config):
            multi_grid = tuple(map(int, re.findall(r"\d+", grid[1])))
    else:
        align_corners = "769x769" in name
        if stride := re.search(r"-d(8|16|32)[-_]", name):
            output_stride = int(stride[1])
        if grid := re.search(r"-mg(\d+)[-_]", name):
            multi_grid = tuple(map(int, grid[1]))
    settings: dict[str, Any] = {"model.align_corners": align_corners}
    if output_stride is not None:
        settings["model.backbone.output_stride"] = output_stride
    return settings | {"model.backbone.multi_grid": multi_grid}
