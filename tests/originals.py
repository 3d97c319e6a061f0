"""The published networks written out in plain functions over their original names: oracles."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

State = dict[str, torch.Tensor]


def norm(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], training=False)


def conv(state: State, name: str, x: torch.Tensor, **how: int) -> torch.Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **how)


def conv_norm_relu(state: State, first: str, second: str, x: torch.Tensor, **how: int) -> torch.Tensor:
    return F.relu(norm(state, second, conv(state, first, x, **how)))


def split_attention(state: State, name: str, x: torch.Tensor, dilation: int) -> torch.Tensor:
    """Radix 2, cardinality 1: two splits."""
    u = conv_norm_relu(
        state, f"{name}.conv", f"{name}.bn0", x, padding=dilation, dilation=dilation, groups=2
    )  # fmt: skip
    one, two = u.chunk(2, 1)
    z = (one + two).mean((2, 3), keepdim=True)
    z = conv_norm_relu(state, f"{name}.fc1", f"{name}.bn1", z)
    a, b = conv(state, f"{name}.fc2", z).chunk(2, 1)
    return one * torch.sigmoid(a - b) + two * torch.sigmoid(b - a)  # softmax of two


def resnest_block(
    state: State, name: str, x: torch.Tensor, *, stride: int, dilation: int, pool: bool
) -> torch.Tensor:
    out = conv_norm_relu(state, f"{name}.conv1", f"{name}.bn1", x)
    out = split_attention(state, f"{name}.conv2", out, dilation)
    if pool:
        out = F.avg_pool2d(out, 3, stride, 1)
    out = norm(state, f"{name}.bn3", conv(state, f"{name}.conv3", out))
    if f"{name}.downsample.1.weight" in state:
        x = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
        x = norm(state, f"{name}.downsample.2", conv(state, f"{name}.downsample.1", x))
    return F.relu(out + x)


# output stride: (stride, dilation of the first block, dilation of the others) of each layer
DILATED = {
    8: [(1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)],
    16: [(1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2)],
    32: [(1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)],
}


def resnest_stages(
    state: State, prefix: str, x: torch.Tensor, *, output_stride: int, pool_where_dilated: bool = True
) -> list[torch.Tensor]:
    stages = []
    for layer, (stride, first, rest) in enumerate(DILATED[output_stride], start=1):
        block = 0
        while f"{prefix}layer{layer}.{block}.conv1.weight" in state:
            x = resnest_block(
                state,
                f"{prefix}layer{layer}.{block}",
                x,
                stride=stride if block == 0 else 1,
                dilation=first if block == 0 else rest,
                pool=block == 0 and layer > 1 and (stride > 1 or pool_where_dilated),
            )
            block += 1
        stages.append(x)
    return stages


def resnest(state: State, prefix: str, x: torch.Tensor, *, output_stride: int = 8) -> list[torch.Tensor]:
    """The authors' ResNeSt."""
    x = conv_norm_relu(state, f"{prefix}conv1.0", f"{prefix}conv1.1", x, stride=2, padding=1)
    x = conv_norm_relu(state, f"{prefix}conv1.3", f"{prefix}conv1.4", x, padding=1)
    x = conv_norm_relu(state, f"{prefix}conv1.6", f"{prefix}bn1", x, padding=1)
    return resnest_stages(state, prefix, F.max_pool2d(x, 3, 2, 1), output_stride=output_stride)


def encoding_fcn_head(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return conv(state, f"{name}.4", conv_norm_relu(state, f"{name}.0", f"{name}.1", x, padding=1))


def encoding_deeplab(state: State, image: torch.Tensor) -> torch.Tensor:
    """DeepLabV3 of PyTorch-Encoding at output stride 8."""
    x = resnest(state, "pretrained.", image)[-1]
    aspp = "head.aspp"
    branches = [conv_norm_relu(state, f"{aspp}.b0.0", f"{aspp}.b0.1", x)]
    for i, rate in enumerate((12, 24, 36), start=1):
        branches.append(
            conv_norm_relu(state, f"{aspp}.b{i}.0", f"{aspp}.b{i}.1", x, padding=rate, dilation=rate)
        )
    pooled = conv_norm_relu(state, f"{aspp}.b4.gap.1", f"{aspp}.b4.gap.2", F.adaptive_avg_pool2d(x, 1))
    branches.append(F.interpolate(pooled, x.shape[2:], mode="bilinear", align_corners=True))
    x = conv_norm_relu(state, f"{aspp}.project.0", f"{aspp}.project.1", torch.cat(branches, 1))
    x = conv(state, "head.block.4", conv_norm_relu(state, "head.block.0", "head.block.1", x, padding=1))
    return F.interpolate(x, image.shape[2:], mode="bilinear", align_corners=True)


def encoding_fcn(state: State, image: torch.Tensor) -> torch.Tensor:
    x = encoding_fcn_head(state, "head.conv5", resnest(state, "pretrained.", image)[-1])
    return F.interpolate(x, image.shape[2:], mode="bilinear", align_corners=True)


def mmseg_stem(state: State, x: torch.Tensor) -> torch.Tensor:
    for i, stride in ((0, 2), (3, 1), (6, 1)):
        stem = "backbone.stem"
        x = conv_norm_relu(state, f"{stem}.{i}", f"{stem}.{i + 1}", x, stride=stride, padding=1)
    return F.max_pool2d(x, 3, 2, 1)


def mmseg_deeplab(state: State, image: torch.Tensor, *, align_corners: bool = False) -> torch.Tensor:
    """DeepLabV3 of mmsegmentation on its ResNeSt at output stride 8: the pool goes where dilation comes."""
    x = mmseg_stem(state, image)
    x = resnest_stages(state, "backbone.", x, output_stride=8, pool_where_dilated=False)[-1]
    return mmseg_deeplab_head(state, x, image, rates=(12, 24, 36), align_corners=align_corners)


def mmseg_resnet(state: State, image: torch.Tensor, *, dilations: dict[int, list[int]]) -> torch.Tensor:
    """Last stage of mmsegmentation's ResNetV1c; dilation of each block of a layer, or 1."""
    x = mmseg_stem(state, image)
    for layer in (1, 2, 3, 4):
        block = 0
        while f"backbone.layer{layer}.{block}.conv1.weight" in state:
            name = f"backbone.layer{layer}.{block}"
            dilation = dilations.get(layer, [])[block : block + 1] or [1]
            stride = 2 if block == 0 and layer > 1 and layer not in dilations else 1
            how = {"stride": stride, "padding": dilation[0], "dilation": dilation[0]}
            out = conv_norm_relu(state, f"{name}.conv1", f"{name}.bn1", x)
            out = conv_norm_relu(state, f"{name}.conv2", f"{name}.bn2", out, **how)
            out = norm(state, f"{name}.bn3", conv(state, f"{name}.conv3", out))
            if block == 0:
                x = conv(state, f"{name}.downsample.0", x, stride=stride)
                x = norm(state, f"{name}.downsample.1", x)
            x = F.relu(out + x)
            block += 1
    return x


def mmseg_deeplab_head(
    state: State, x: torch.Tensor, image: torch.Tensor, *, rates: tuple[int, ...], align_corners: bool
) -> torch.Tensor:
    """The ASPP head of mmsegmentation on the last stage, resized to the image."""
    head = "decode_head"
    pooled = F.adaptive_avg_pool2d(x, 1)
    pooled = conv_norm_relu(state, f"{head}.image_pool.1.conv", f"{head}.image_pool.1.bn", pooled)
    branches = [F.interpolate(pooled, x.shape[2:], mode="bilinear", align_corners=align_corners)]
    for i, rate in enumerate((1, *rates)):
        module = f"{head}.aspp_modules.{i}"
        how = {} if rate == 1 else {"padding": rate, "dilation": rate}
        branches.append(conv_norm_relu(state, f"{module}.conv", f"{module}.bn", x, **how))
    x = torch.cat(branches, 1)
    x = conv_norm_relu(state, f"{head}.bottleneck.conv", f"{head}.bottleneck.bn", x, padding=1)
    x = conv(state, f"{head}.conv_seg", x)
    return F.interpolate(x, image.shape[2:], mode="bilinear", align_corners=align_corners)


def save(content: object, path: Path) -> str:
    """Save the state of a network, or any content, and return the path."""
    torch.save(content.state_dict() if isinstance(content, torch.nn.Module) else content, path)
    return str(path)


def randomize(module: torch.nn.Module) -> torch.nn.Module:
    """In evaluation and double precision, with normalizations that have seen something."""
    torch.manual_seed(0)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_mean") or (name.endswith("bias") and tensor.ndim == 1):
            tensor.normal_(0, 0.3)
        elif name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            tensor.uniform_(0.7, 1.3)
    return module.double().eval()
