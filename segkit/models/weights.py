"""Published weights: read without running code, renamed to our names, loaded with every key accounted for."""

from __future__ import annotations

import io
import logging
import re
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from segkit.models import mmsegmentation, peers
from segkit.models.names import State, convert_names, is_mmsegmentation
from segkit.models.published import find_published, resolve_weights
from segkit.models.stems import Rule, adapt_stem_weights, match_weight_bands
from segkit.runtime import files, model_file
from segkit.runtime.download import cache, fetch, resolve
from segkit.runtime.errors import first_line

if TYPE_CHECKING:
    from segkit.models.network import Segmenter

LOG = logging.getLogger("segkit")

WRAPPERS = ("average", "state_dict", "model")  # where checkpoints keep their state dict, best first
# A best score saved as a numpy number is a value, not code; old files call its type by an old name.
NUMPY_NUMBERS = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


class WeightsFile(NamedTuple):
    """Content of a file of weights."""

    state: State
    config: str  # the settings they were trained with, as mmsegmentation keeps them, or ""


def read_tensors(path: Path) -> WeightsFile:
    """Return the state dict in a file: bare, wrapped in a larger checkpoint, and either of them in a zip.

    Raises:
        ValueError: the file is damaged, holds code, or holds no state dict.
    """
    if path.suffix == ".safetensors":
        return WeightsFile(model_file.read_model_file(path)[0], "")
    path_or_content = _unzipped(path)
    with torch.serialization.safe_globals(NUMPY_NUMBERS):
        content = files.read_tensors(path, path_or_content)
    meta = content.get("meta") if isinstance(content, Mapping) else None
    config = meta.get("config", meta.get("cfg")) if isinstance(meta, Mapping) else None
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(map(torch.is_tensor, content.values())):
        raise ValueError(f"{path}: holds no state dict, bare or under {', '.join(WRAPPERS)}")
    state = {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
    return WeightsFile(state, config if isinstance(config, str) else "")


def _unzipped(path: Path) -> Path | io.BytesIO:
    """Return the checkpoint itself, where it lies in an ordinary zip (PyTorch's own files are zips, too).

    macOS adds a file ``__MACOSX/._NAME`` for each in the zip.

    Raises:
        ValueError: the zip is damaged, or holds several checkpoints.
    """
    if not zipfile.is_zipfile(path):
        return path
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not Path(name).name.startswith("._")]
            inside = [name for name in names if name.endswith((".pth", ".pt", ".pth.tar"))]
            if len(inside) == 1:
                files.check_zip(path, most=0)
                return io.BytesIO(archive.read(inside[0]))
    except Exception as error:  # of zipfile and its decompressors
        raise ValueError(f"{path}: damaged, or not a PyTorch file ({first_line(error)})") from error
    if inside:
        raise ValueError(f"{path}: the zip holds several checkpoints: {', '.join(inside)}")
    return path


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
    path = imagenet_weights_path(published) if weights == "imagenet" else resolve(weights)
    raw = read_tensors(path).state
    state = _rename(raw, path)
    if any(name.startswith("backbone.") for name in state):
        state = {n.removeprefix("backbone."): t for n, t in state.items() if n.startswith("backbone.")}
    _refuse_other_pool(network, raw, path)
    match_weight_bands(network, state)
    load_state(network, state, source=path, optional=("fc.",) if network.fc is None else ())


def imagenet_weights_path(published: str | None) -> Path:
    """Return the file of the published ImageNet weights, downloaded into the cache once.

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


class LoadReport(NamedTuple):
    """Result of loading the tensors of a file into a model."""

    kept: int
    renewed: list[str]  # in both, for other classes
    left_out: list[str]  # in the file alone

    def __str__(self) -> str:
        names = {"renewed for other classes": self.renewed, "left out": self.left_out}
        words = [f"{what}: {', '.join(found) or 'none'}" for what, found in names.items()]
        return "; ".join([f"{self.kept} tensors kept", *words])


def load_segmenter(
    model: Segmenter,
    weights: str,
    rule: Rule = "mean",
    *,
    of_classes: Collection[str] = (),
    other_classes: bool = False,
) -> LoadReport:
    """Load the weights of a whole model, such as a published checkpoint.

    Without an auxiliary head in the model, that of the weights is left out.

    Args:
        model: the heads must be those of the weights.
        weights: path, ``file://`` or ``http(s)://``, or the name of a published network.
        rule: how weights of RGB are carried over to other bands.
        of_classes: tensors that may keep their fresh values, and do where the file's have another shape.
        other_classes: they do whatever their shape.

    Raises:
        ValueError: there is no such file, or it does not fit; every key that does not is named.
        OSError: the download failed.
    """
    path = resolve_weights(weights)
    raw, config = read_tensors(path)
    if is_mmsegmentation(raw):
        _refuse_other_pool(model.backbone, raw, path)
        mmsegmentation.check_compatible(model, config, path, raw)
    if which := peers.detect_source(raw):
        peers.check_compatible(model, which, path)
    optional = ("backbone.fc.",) if model.auxiliary is not None else ("backbone.fc.", "auxiliary.")
    state, own = _rename(raw, path), model.state_dict()
    if model.in_channels != 3:
        state = adapt_stem_weights(state, model.backbone, "backbone.", rule)
    both = sorted(name for name in of_classes if name in state)
    renewed = [name for name in both if other_classes or state[name].shape != own[name].shape]
    state |= {name: own[name] for name in renewed}
    return load_state(model, state, source=path, optional=optional, renewed=renewed)


def _rename(raw: State, path: Path) -> State:
    try:
        return convert_names(raw)
    except (IndexError, RuntimeError, TypeError) as error:  # tensors of unexpected dimensions
        raise ValueError(f"{path}: these weights are of another network ({first_line(error)})") from error


def _refuse_other_pool(network: nn.Module, raw: State, path: Path) -> None:
    """Refuse a dilated ResNeSt of mmsegmentation, which has no pool where dilation replaced the stride."""
    pool, output_stride = getattr(network, "pool", "none"), getattr(network, "output_stride", 32)
    if is_mmsegmentation(raw) and pool in ("after", "before") and output_stride < 32:
        raise ValueError(
            f"{path}: the dilated ResNeSt of mmsegmentation leaves out the pool of its dilated stages; "
            "choose a variant that does, such as model.backbone.variant=101_mmseg"
        )


def load_state(
    module: nn.Module, state: State, *, source: Path, optional: tuple[str, ...], renewed: Sequence[str] = ()
) -> LoadReport:
    """Copy every tensor, or none.

    Args:
        module: takes them.
        state: under the names of the module.
        source: named in errors.
        optional: what names begin with that may be left out of the module.
        renewed: names whose tensors in ``state`` are the module's own, for the log.

    Raises:
        ValueError: a tensor is missing, unknown, of another shape or type, or not finite.
    """
    own = module.state_dict()
    left_out = sorted(name for name in state if name.startswith(optional) and name not in own)
    state = {name: tensor for name, tensor in state.items() if name not in left_out}
    for name in own.keys() - state.keys():
        if name.endswith("num_batches_tracked"):  # older PyTorch did not count
            state[name] = own[name]
    differing = files.differences(own, state)
    if any(differing):
        hints = _hints(differing)
        if name := find_published(source):
            hints.append(f"{source.name} loads into {name.model}, with its {name.classes} classes")
        words = [f"{source}: these weights are of another network", str(differing), "; ".join(hints)]
        raise ValueError("\n  ".join(line for line in words if line))
    check_finite(state, source)
    module.load_state_dict(state)
    loaded = LoadReport(len(state) - len(renewed), list(renewed), left_out)
    LOG.info("%s: %s", source, loaded)
    return loaded


def check_finite(state: Mapping[str, torch.Tensor], source: str | Path) -> None:
    """Make sure that all weights are numbers.

    Raises:
        ValueError: one is NaN or infinite.
    """
    doubtful = [name for name, tensor in state.items() if not tensor.sum().isfinite()]  # 20 times faster
    names = [name for name in doubtful if not state[name].isfinite().all()]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ValueError(f"{source}: {', '.join(names[:3])}{more} hold NaN or infinity; use another file")


def _hints(differing: files.Differences) -> list[str]:
    """Return what probably was meant, from the keys that do not fit."""
    missing, unknown, other_shape, _ = differing
    hints = []
    if any(name.startswith("auxiliary.") for name in missing):
        hints.append("the file has no auxiliary head: model/auxiliary=none")
    if any(name.startswith("head.classifier.") for name in unknown):
        hints.append("the file is of mmsegmentation: model/head=deeplabv3_mmseg")
    if any(".conv1.paths." in name for name in unknown) or any(
        re.search(r"\.paths\.\d\.conv\.weight", name) for name, _, _ in other_shape
    ):
        hints.append(
            "the file is of timm's skresnet: each branch reads its own half of the channels, which no "
            "backbone here does; its skresnext50_32x4d loads into sknet50"
        )
    if 0 < len(other_shape) <= 4 and not missing and not unknown:  # the last convolutions alone
        hints.append("another number of classes? model.backbone.weights=FILE loads the backbone alone")
    return hints
