"""Published weights under our names: rename tables for each project, with every key accounted for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from segkit.models import peers

State = dict[str, Tensor]

PYTORCH_ENCODING = (  # zhanghang1989/PyTorch-Encoding
    (r"^pretrained\.", "backbone."),
    (r"^auxlayer\.", "auxiliary."),
)
MMSEGMENTATION = (
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
ATTENTION = (
    (r"\.se\.fc\.0\.", ".attention.fc1."),  # implus/PytorchInsight
    (r"\.se\.fc\.2\.", ".attention.fc2."),
    (r"\.cbam\.ChannelGate\.mlp\.1\.", ".attention.fc1."),  # Jongchan/attention-module
    (r"\.cbam\.ChannelGate\.mlp\.3\.", ".attention.fc2."),
    (r"\.cbam\.SpatialGate\.spatial\.", ".attention."),
    (r"\.(se|sge)\.", ".attention."),  # the name depends on the kind elsewhere
    (r"(layer\d\.\d+)\.conv([13])\.conv\.", r"\1.conv\2."),  # timm's selective kernels
    (r"(layer\d\.\d+)\.conv([13])\.bn\.", r"\1.bn\2."),
)
LINEAR = (".attention.fc1.weight", ".attention.fc2.weight")  # there a matrix, here a 1x1 convolution
SK_RESNET = (  # implus/PytorchInsight: each branch beside the block's own parts
    (r"\.conv2\.", ".conv2.paths.0.conv."),
    (r"\.bn2\.", ".conv2.paths.0.bn."),
    (r"\.conv2g\.", ".conv2.paths.1.conv."),
    (r"\.bn2g\.", ".conv2.paths.1.bn."),
    (r"\.conv_fc1\.", ".conv2.attn.fc_reduce."),
    (r"\.bn_fc1\.", ".conv2.attn.bn."),
    (r"\.conv_fc2\.", ".conv2.attn.fc_select."),
)


def is_mmsegmentation(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of mmsegmentation."""
    return any(re.match(r"(backbone\.)?stem\.|decode_head\.|auxiliary_head\.", name) for name in state)


def convert_names(state: State) -> State:
    """The same tensors under our names, whoever named them; our own names stay.

    Raises:
        ValueError: two names become one.
    """
    rules = ATTENTION + PYTORCH_ENCODING
    if which := peers.detect_source(state):
        rules = peers.RULES[which]
    if any(".conv2g." in name for name in state):
        rules = SK_RESNET + rules
    if is_mmsegmentation(state):
        upernet = "decode_head.fpn_bottleneck.conv.weight" in state
        rules = ATTENTION + (MMSEGMENTATION_UPERNET if upernet else MMSEGMENTATION)
        fuse = "decode_head.bottleneck.conv.weight"
        branch = state.get("decode_head.image_pool.1.conv.weight")
        if fuse in state and branch is not None:  # there the pooled branch comes first, here last
            state = state | {fuse: state[fuse].roll(-len(branch), 1)}
    out: State = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if name in out:
            raise ValueError(f"two tensors of these weights are both called {name}")
        out[name] = tensor[:, :, None, None] if name.endswith(LINEAR) and tensor.ndim == 2 else tensor
    return out
