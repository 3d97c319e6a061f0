"""Load published weights: read files without running code, and account for every key."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from segkit.models.checkpoint_formats import State, check_compatible, convert_names, is_mmsegmentation
from segkit.models.published import NETWORKS, fetch_published, resolve_weights
from segkit.models.stems import Rule, adapt_stem_weights, match_weight_bands
from segkit.runtime import files, model_file
from segkit.runtime.download import resolve_source
from segkit.runtime.text import first_line

if TYPE_CHECKING:
    from segkit.models.network import Segmenter

LOG = logging.getLogger("segkit")

WRAPPERS = ("average", "state_dict", "model")  # keys of a checkpoint that may hold its state dict, best first
# A best score saved as a numpy number is a value, not code; old files use another name for its type.
NUMPY_NUMBERS = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


class WeightsFile(NamedTuple):
    """Content of a file of weights."""

    state: State
    config: str  # the settings that mmsegmentation stores beside the weights, or ""


def read_weights_file(path: Path) -> WeightsFile:
    """Return the state dict of a file: bare, inside a larger checkpoint, or either of them in a zip.

    Raises:
        ValueError: the file is damaged, contains code, or has no state dict.
    """
    if path.suffix == ".safetensors":
        return WeightsFile(model_file.read_model_file(path)[0], "")
    source = _unzip(path)
    with torch.serialization.safe_globals(NUMPY_NUMBERS):
        content = files.read_tensors(path, source)
    config = ""
    if isinstance(content, Mapping):
        meta = content.get("meta")
        if isinstance(meta, Mapping):
            config = meta.get("config", meta.get("cfg"))
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not content or not all(map(torch.is_tensor, content.values())):
        raise ValueError(f"{path}: no state dict in this file, neither bare nor under {', '.join(WRAPPERS)}")
    state = {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
    return WeightsFile(state, config if isinstance(config, str) else "")


def _unzip(path: Path) -> Path | io.BytesIO:
    """Return the checkpoint inside an ordinary zip, or the path itself (PyTorch's own files are zips, too).

    Raises:
        ValueError: the zip is damaged, or holds several checkpoints.
    """
    if not zipfile.is_zipfile(path):
        return path
    try:
        with zipfile.ZipFile(path) as archive:
            # macOS adds a file __MACOSX/._NAME for each in the zip
            names = [name for name in archive.namelist() if not Path(name).name.startswith("._")]
            checkpoints = [name for name in names if name.endswith((".pth", ".pt", ".pth.tar"))]
            if len(checkpoints) == 1:
                files.check_zip(path, most=0)
                return io.BytesIO(archive.read(checkpoints[0]))
    except Exception as error:  # of zipfile and its decompressors
        raise ValueError(f"{path}: damaged, or not a PyTorch file ({first_line(error)})") from error
    if checkpoints:
        raise ValueError(f"{path}: the zip holds several checkpoints: {', '.join(checkpoints)}")
    return path


def load_backbone(network: nn.Module, weights: str | None, published: str | None) -> None:
    """Load the weights of a backbone; from those of a segmenter, its backbone is taken.

    Args:
        network: ``.fc`` is its classifier; if None, the classifier in the file is left out.
        weights: None for nothing, "imagenet" for the published file, or a path, ``file://`` or ``http(s)://``.
        published: address of the published file, or None.

    Raises:
        ValueError: there is no such file, or it does not fit; every key that does not is named.
        OSError: the download failed.
    """
    if weights is None:
        return
    if weights != "imagenet":
        path = resolve_source(weights)
    elif published is not None:
        path = fetch_published(published)
    else:
        raise ValueError(
            "model.backbone.weights=imagenet: no weights are published for this network. Give a path or an "
            "address, or null to start from scratch"
        )
    original = read_weights_file(path).state
    state = convert_names(original)
    if any(name.startswith("backbone.") for name in state):
        state = {n.removeprefix("backbone."): t for n, t in state.items() if n.startswith("backbone.")}
    _check_pool(network, original, path)
    match_weight_bands(network, state)
    load_state(network, state, source=path, optional=("fc.",) if network.fc is None else ())


class LoadReport(NamedTuple):
    """Result of loading the tensors of a file into a model."""

    loaded: int
    reinitialized: list[str]  # in both, but they depend on the classes
    left_out: list[str]  # in the file only

    def __str__(self) -> str:
        """Return a line for the log."""
        fresh = ", ".join(self.reinitialized) or "none"
        ignored = ", ".join(self.left_out) or "none"
        return f"{self.loaded} tensors loaded; re-initialized for other classes: {fresh}; left out: {ignored}"


def load_segmenter(
    model: Segmenter,
    weights: str,
    rule: Rule = "mean",
    *,
    class_tensors: Collection[str] = (),
    classes_differ: bool = False,
) -> LoadReport:
    """Load the weights of a whole model, such as a published checkpoint.

    If the model has no auxiliary head, that of the file is left out.

    Args:
        model: its heads must be those of the weights.
        weights: path, ``file://`` or ``http(s)://``, or the name of a published network.
        rule: how the first filters are adapted to other bands than RGB.
        class_tensors: names of the tensors that depend on the classes; the model's own values stay where the
            shape in the file differs.
        classes_differ: the model's own values of all ``class_tensors`` stay.

    Raises:
        ValueError: there is no such file, or it does not fit; every key that does not is named.
        OSError: the download failed.
    """
    path = resolve_weights(weights)
    original, config = read_weights_file(path)
    _check_pool(model.backbone, original, path)
    check_compatible(model, original, config, path)
    state, own = convert_names(original), model.state_dict()
    if model.in_channels != 3:
        state = adapt_stem_weights(state, model.backbone, "backbone.", rule)
    reinitialized = [
        name
        for name in sorted(class_tensors)
        if name in state and (classes_differ or state[name].shape != own[name].shape)
    ]
    state |= {name: own[name] for name in reinitialized}
    optional = ["backbone.fc."]
    if model.auxiliary is None:
        optional.append("auxiliary.")
    return load_state(model, state, source=path, optional=tuple(optional), reinitialized=reinitialized)


def _check_pool(network: nn.Module, state: State, path: Path) -> None:
    """Reject a dilated ResNeSt of mmsegmentation, which has no pool where dilation replaced the stride."""
    has_pool = getattr(network, "pool", "none") in ("after", "before")
    is_dilated = getattr(network, "output_stride", 32) < 32
    if has_pool and is_dilated and is_mmsegmentation(state):
        raise ValueError(
            f"{path}: the ResNeSt of mmsegmentation has no pool in its dilated stages. Choose a variant "
            "without it, such as model.backbone.variant=101_mmseg"
        )


def load_state(
    module: nn.Module,
    state: State,
    *,
    source: Path,
    optional: tuple[str, ...],
    reinitialized: Sequence[str] = (),
) -> LoadReport:
    """Copy a state dict into a module, whole or (after an error) not at all; return what was loaded.

    Args:
        module: takes them.
        state: under the names of the module.
        source: named in errors.
        optional: prefixes of names that may be in the file only.
        reinitialized: names whose tensors in ``state`` are the module's own, for the report.

    Raises:
        ValueError: a tensor is missing, unknown, of another shape or type, or not finite.
    """
    own = module.state_dict()
    left_out = sorted(name for name in state if name.startswith(optional) and name not in own)
    state = {name: tensor for name, tensor in state.items() if name not in left_out}
    for name in own.keys() - state.keys():
        if name.endswith("num_batches_tracked"):  # older PyTorch did not count
            state[name] = own[name]
    differences = files.compare_states(own, state)
    if any(differences):
        hints = _find_hints(differences, source)
        raise ValueError("\n  ".join([f"{source}: weights of another network", str(differences), *hints]))
    check_finite(state, source)
    module.load_state_dict(state)
    report = LoadReport(len(state) - len(reinitialized), list(reinitialized), left_out)
    LOG.info("%s: %s", source, report)
    return report


def check_finite(state: Mapping[str, torch.Tensor], source: str | Path) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        ValueError: one is.
    """
    suspects = [name for name, tensor in state.items() if not tensor.sum().isfinite()]  # 20 times faster
    names = [name for name in suspects if not state[name].isfinite().all()]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ValueError(f"{source}: {', '.join(names[:3])}{more} contain NaN or infinity. Use another file")


def _find_hints(differences: files.StateDifferences, source: Path) -> list[str]:
    """Return likely causes of keys that do not fit."""
    missing, unknown, other_shape, _ = differences
    hints = []
    if any(name.startswith("auxiliary.") for name in missing):
        hints.append("the file has no auxiliary head: model/auxiliary=none")
    if any(".paths." in name for name in (*unknown, *other_shape)):
        hints.append("timm's skresnet? Its branches read half of the channels each; no backbone here does")
    if 0 < len(other_shape) <= 4 and not missing and not unknown:  # the last convolutions only
        hints.append("another number of classes? model.backbone.weights=FILE loads the backbone alone")
    settings = [network.settings for network in NETWORKS.values() if f"-{network.digits}." in source.name]
    hints += [f"{source.name} loads into {each}" for each in settings]
    return hints
