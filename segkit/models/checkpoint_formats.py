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

if TYPE_CHECKING:
    from segkit.models.network import Segmenter

State = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]  # pattern and replacement, applied in order

PYTORCH_ENCODING = (  # zhanghang1989/PyTorch-Encoding
    (r"^pretrained\.", "backbone."),
    (r"^auxlayer\.", "auxiliary."),
)
ATTENTION = (
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
MMSEGMENTATION = (
    *ATTENTION,
    (r"^((?:backbone\.)?)stem\.7\.", r"\1bn1."),
    (r"^((?:backbone\.)?)stem\.", r"\1conv1."),
    (r"^decode_head\.image_pool\.1\.conv\.", "head.aspp.b4.gap.1."),
    (r"^decode_head\.image_pool\.1\.bn\.", "head.aspp.b4.gap.2."),
    (r"^decode_head\.aspp_modules\.(\d)\.conv\.", r"head.aspp.b\1.0."),
    (r"^decode_head\.aspp_modules\.(\d)\.bn\.", r"head.aspp.b\1.1."),
    (r"^decode_head\.bottleneck\.conv\.", "head.aspp.project.0."),
    (r"^decode_head\.bottleneck\.bn\.", "head.aspp.project.1."),
    (r"^decode_head\.conv_seg\.", "head.classifier.1."),
    (r"^auxiliary_head\.convs\.0\.conv\.", "auxiliary.conv5.0."),
    (r"^auxiliary_head\.convs\.0\.bn\.", "auxiliary.conv5.1."),
    (r"^auxiliary_head\.conv_seg\.", "auxiliary.conv5.4."),
)
MMSEGMENTATION_UPERNET = (
    (r"^decode_head\.psp_modules\.(\d)\.1\.", r"decode_head.psp_modules.\1."),
    (r"^decode_head\.(.+)\.conv\.", r"head.\1.0."),
    (r"^decode_head\.(.+)\.bn\.", r"head.\1.1."),
    *MMSEGMENTATION,
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


class CheckpointFormat(NamedTuple):
    """A network as another project writes it."""

    name: str  # for messages
    rules: Rules
    head: str | None = None  # component of ``models.heads`` that its head loads into, None if there is none


DEFAULT = CheckpointFormat("segkit or PyTorch-Encoding", ATTENTION + PYTORCH_ENCODING)
SMP = CheckpointFormat("segmentation_models.pytorch", ((r"^encoder\.", "backbone."),))
TORCHVISION_FORMATS = {
    "DeepLabV3": CheckpointFormat("torchvision's DeepLabV3", TORCHVISION_DEEPLABV3, "deeplabv3"),
    "FCN": CheckpointFormat("torchvision's FCN", TORCHVISION_FCN, "fcn"),
    "other": CheckpointFormat("a torchvision network on another backbone than ResNet", ()),
}
TORCHVISION_SETTINGS = {
    "model.align_corners": False,
    "model.backbone.output_stride": 8,
    "model.backbone.multi_grid": None,
    "model.head.atrous_rates": (12, 24, 36),
}
MMSEGMENTATION_FORMATS = {  # by a part that only this head has, the most specific first
    "c1_bottleneck.": CheckpointFormat("mmsegmentation's DeepLabV3+", MMSEGMENTATION),
    "fpn_bottleneck.": CheckpointFormat("mmsegmentation's UPerNet", MMSEGMENTATION_UPERNET, "upernet"),
    "psp_modules.": CheckpointFormat("mmsegmentation's PSPNet", MMSEGMENTATION),
    "aspp_modules.": CheckpointFormat("mmsegmentation's DeepLabV3", MMSEGMENTATION, "deeplabv3_mmseg"),
    "convs.": CheckpointFormat("mmsegmentation's FCN, or a head based on it", MMSEGMENTATION),
    "": CheckpointFormat("another network of mmsegmentation", MMSEGMENTATION),
}


def detect_format(names: Iterable[str]) -> CheckpointFormat:
    """Return the format of a checkpoint whose tensors have these names; the default if none fits."""
    names = list(names)

    def has(*starts: str) -> bool:
        return any(name.startswith(starts) for name in names)

    if has("classifier.") and has("backbone."):
        if not has("backbone.layer4."):
            return TORCHVISION_FORMATS["other"]
        return TORCHVISION_FORMATS["DeepLabV3" if has("classifier.0.convs.") else "FCN"]
    if has("segmentation_head.") and has("encoder."):
        return SMP
    if is_mmsegmentation(names):
        for part, candidate in MMSEGMENTATION_FORMATS.items():
            if has(f"decode_head.{part}"):
                return candidate
        return MMSEGMENTATION_FORMATS[""]  # a backbone alone
    return DEFAULT


def is_mmsegmentation(names: Iterable[str]) -> bool:
    """Return whether tensors have the names of mmsegmentation."""
    return any(re.match(r"(backbone\.)?stem\.|decode_head\.|auxiliary_head\.", name) for name in names)


def convert_names(state: State) -> State:
    """Return the tensors of any known format under segkit's names.

    Raises:
        ValueError: two names become one.
    """
    rules = detect_format(state).rules
    if any(".conv2g." in name for name in state):
        rules = SK_RESNET + rules
    pooled = state.get("decode_head.image_pool.1.conv.weight")
    fuse = "decode_head.bottleneck.conv.weight"
    if pooled is not None and fuse in state:
        # mmsegmentation joins the pooled branch first, segkit last
        state = state | {fuse: state[fuse].roll(-len(pooled), 1)}
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
    if source is DEFAULT:
        return
    if source.head is None:
        raise ValueError(
            f"{path}: contains {source.name}, which cannot be loaded as a whole model. "
            "model.backbone.weights=FILE loads its backbone alone"
        )
    if source.name.startswith("torchvision"):
        origin, required = "torchvision's code", dict(TORCHVISION_SETTINGS)
    else:
        origin = "the settings in the file" if config else "the file's name"
        required = parse_mmsegmentation_settings(config, path.name)
    current: dict[str, Any] = {
        "model.align_corners": model.align_corners,
        "model.backbone.output_stride": getattr(model.backbone, "output_stride", None),
        "model.backbone.multi_grid": getattr(model.backbone, "multi_grid", None),
    }
    if hasattr(model.head, "aspp"):
        current["model.head.atrous_rates"] = model.head.aspp.rates  # type: ignore[union-attr]
    changes = [
        f"{key}={_format_override(value)}"
        for key, value in required.items()
        if key in current and current[key] != value
    ]
    if changes:
        raise ValueError(
            f"{path}: contains {source.name}, which {origin} defines with other settings than this model "
            f"has. Set model/head={source.head} {' '.join(changes)}"
        )


def parse_mmsegmentation_settings(config: str, name: str) -> dict[str, Any]:
    """Return the settings that a network of mmsegmentation was trained with, by our keys.

    Args:
        config: the settings in the checkpoint, Python source, or "".
        name: of the file; used if there is no ``config``.
    """
    numbers = r"\s*=\s*[(\[]([\d,\s]+)[)\]]"  # a tuple or a list
    if config:
        align = re.search(r"align_corners\s*=\s*(True|False)", config)
        align_corners = align is not None and align[1] == "True"
        strides = re.search(r"\bstrides" + numbers, config)
        grid = re.search(r"\bmulti_grid" + numbers, config)
        if strides:
            output_stride = 4 * math.prod(map(int, re.findall(r"\d+", strides[1])))
        else:
            output_stride = None
        if grid:
            multi_grid = tuple(map(int, re.findall(r"\d+", grid[1])))
        else:
            multi_grid = None
    else:
        align_corners = "769x769" in name
        stride, grid = re.search(r"-d(8|16|32)[-_]", name), re.search(r"-mg(\d+)[-_]", name)
        output_stride = int(stride[1]) if stride else None
        multi_grid = tuple(map(int, grid[1])) if grid else None
    settings: dict[str, Any] = {"model.align_corners": align_corners}
    if output_stride is not None:
        settings["model.backbone.output_stride"] = output_stride
    return settings | {"model.backbone.multi_grid": multi_grid}


def _format_override(value: object) -> str:
    """Return a value as it is typed on the command line."""
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    if value is None:
        return "null"
    return str(value).lower()
