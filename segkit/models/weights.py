"""Published weights: read without running code, renamed to our names, loaded with every key accounted for."""

from __future__ import annotations

import io
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from segkit.download import cache, fetch, resolve

if TYPE_CHECKING:
    from segkit.models.segmenter import Segmenter

LOG = logging.getLogger("segkit")
State = dict[str, Tensor]

WRAPPERS = ("average", "state_dict", "model")  # where checkpoints keep their state dict, best first
# A best score saved as a numpy number is a value, not code; old files call its type by an old name.
NUMPY_NUMBERS = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]

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
ATTENTION = (
    (r"\.se\.fc\.0\.", ".attention.fc1."),  # implus/PytorchInsight
    (r"\.se\.fc\.2\.", ".attention.fc2."),
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


def read(path: Path) -> State:
    """The state dict in a file: bare, wrapped in a larger checkpoint, and either of them in a zip.

    Raises:
        ValueError: the file is damaged, holds code, or holds no state dict.
    """
    try:
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            content = torch.load(_unzipped(path), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: refused: it is damaged or asks to run code ({_first_sentence(error)}); segkit reads "
            "tensors and plain values only. If you trust the file, load it with the project it came from and "
            "save model.state_dict() alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: damaged, or not a PyTorch file ({_first_sentence(error)})") from error
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(map(torch.is_tensor, content.values())):
        raise ValueError(f"{path}: holds no state dict, bare or under {', '.join(WRAPPERS)}")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _unzipped(path: Path) -> Path | io.BytesIO:
    """The checkpoint itself, where it lies in an ordinary zip (PyTorch's own files are zips, too)."""
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        inside = [name for name in archive.namelist() if name.endswith((".pth", ".pt", ".pth.tar"))]
        if not inside:
            return path
        if len(inside) > 1:
            raise ValueError(f"the zip holds several checkpoints: {', '.join(inside)}")
        return io.BytesIO(archive.read(inside[0]))


def _first_sentence(error: Exception) -> str:
    return re.split(r"\.\s|\n", str(error).strip() or type(error).__name__)[0]


def from_mmsegmentation(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of mmsegmentation."""
    return any(re.match(r"(backbone\.)?stem\.|decode_head\.|auxiliary_head\.", name) for name in state)


def renamed(state: State) -> State:
    """The same tensors under our names, whoever named them; our own names stay.

    Raises:
        ValueError: two names become one.
    """
    rules = ATTENTION + PYTORCH_ENCODING
    if any(".conv2g." in name for name in state):
        rules = SK_RESNET + rules
    if from_mmsegmentation(state):
        rules = ATTENTION + MMSEGMENTATION
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


def load_backbone(network: nn.Module, weights: str | None, published: str | None) -> None:
    """Load a backbone's weights; those of a whole segmenter will do, its heads are left out.

    Args:
        network: ``.fc`` is its classifier, or None: then the weights' classifier is left out.
        weights: None for nothing, "imagenet" for the published file, or a path, ``file://`` or ``http(s)://``.
        published: address of the published file, whose name ends in the first digits of its SHA-256.

    Raises:
        ValueError: there is no such file, or it does not fit; every key that does not is named.
        OSError: the download failed.
    """
    if weights is None:
        return
    path = imagenet(published) if weights == "imagenet" else resolve(weights)
    raw = read(path)
    state = renamed(raw)
    if any(name.startswith("backbone.") for name in state):
        state = {n.removeprefix("backbone."): t for n, t in state.items() if n.startswith("backbone.")}
    _refuse_other_pool(network, raw, path)
    _load(network, state, source=path, optional=("fc.",) if network.fc is None else ())


def imagenet(published: str | None) -> Path:
    """The published ImageNet weights, downloaded into the cache once.

    Raises:
        ValueError: none are published for this network.
        OSError: the download failed.
    """
    if published is None:
        raise ValueError(
            "weights=imagenet: none are published for this network; give a path or an address, or null to "
            "start from scratch"
        )
    name = published.rsplit("/", 1)[1]
    digits = name.rsplit("-", 1)[1].split(".")[0]
    return fetch(published, cache() / "weights" / name, sha256=digits)


def load_segmenter(model: Segmenter, weights: str) -> None:
    """Load the weights of a whole model, such as a published checkpoint.

    Without an auxiliary head in the model, that of the weights is left out.

    Args:
        model: the heads must be those of the weights.
        weights: path, ``file://`` or ``http(s)://``.

    Raises:
        ValueError: there is no such file, or it does not fit; every key that does not is named.
        OSError: the download failed.
    """
    path = resolve(weights)
    raw = read(path)
    if from_mmsegmentation(raw):
        _refuse_other_pool(model.backbone, raw, path)
        if model.align_corners:
            raise ValueError(
                f"{path}: mmsegmentation resizes with align_corners=false; choose model.align_corners=false, "
                "model/head=deeplabv3_mmseg"
            )
    optional = ("backbone.fc.",) if model.auxiliary is not None else ("backbone.fc.", "auxiliary.")
    _load(model, renamed(raw), source=path, optional=optional)


def _refuse_other_pool(network: nn.Module, raw: Mapping[str, Tensor], path: Path) -> None:
    """There, a pool is left out where dilation replaced the stride: equal names, another network."""
    pool, output_stride = getattr(network, "pool", "none"), getattr(network, "output_stride", 32)
    if from_mmsegmentation(raw) and pool in ("after", "before") and output_stride < 32:
        raise ValueError(
            f"{path}: the dilated ResNeSt of mmsegmentation leaves out the pool of its dilated stages; "
            "choose a variant that does, such as model.backbone.variant=101_mmseg"
        )


def _load(module: nn.Module, state: State, *, source: Path, optional: tuple[str, ...]) -> None:
    """Copy every tensor, or none."""
    own = module.state_dict()
    left_out = sorted(name for name in state if name.startswith(optional) and name not in own)
    state = {name: tensor for name, tensor in state.items() if name not in left_out}
    for name in own.keys() - state.keys():
        if name.endswith("num_batches_tracked"):  # older PyTorch did not count
            state[name] = own[name]
    faults = {
        "missing in the file": [n for n in own if n not in state],
        "not in the model": [n for n in state if n not in own],
        "of another shape": [
            f"{n} {tuple(state[n].shape)} for {tuple(own[n].shape)}"
            for n in own
            if n in state and state[n].shape != own[n].shape
        ],
    }
    if any(faults.values()):
        words = [f"  {len(names)} {what}: {', '.join(names)}" for what, names in faults.items() if names]
        words = [f"{source}: these weights are of another network", *words, *_hints(faults)]
        raise ValueError("\n".join(words))
    module.load_state_dict(state)
    LOG.info("%s: %d tensors loaded, left out: %s", source, len(state), ", ".join(left_out) or "none")


def _hints(faults: Mapping[str, list[str]]) -> list[str]:
    """What probably was meant, from the keys that do not fit."""
    missing, unknown, other_shape = faults.values()
    hints = []
    if any(name.startswith("auxiliary.") for name in missing):
        hints.append("the file has no auxiliary head: model/auxiliary=none")
    if any(name.startswith("head.classifier.") for name in unknown):
        hints.append("the file is of mmsegmentation: model/head=deeplabv3_mmseg model.align_corners=false")
    if any(".conv1.paths." in name for name in unknown) or any(
        re.search(r"\.paths\.\d\.conv\.weight", shapes) for shapes in other_shape
    ):
        hints.append(
            "the file is of timm's skresnet: each branch reads its own half of the channels, which no "
            "backbone here does; its skresnext50_32x4d loads into sknet50"
        )
    if 0 < len(other_shape) <= 4 and not missing and not unknown:  # the last convolutions alone
        hints.append("another number of classes? model.backbone.weights=FILE loads the backbone alone")
    return [f"  {hint}" for hint in hints]
