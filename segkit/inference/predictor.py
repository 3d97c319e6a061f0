"""Trained networks, loaded from a checkpoint, an exported file, or settings with published weights.

In Python: ``segkit.load("runs/demo/best.pt").predict("photo.jpg")``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from segkit import checkpoint, export, inference
from segkit.config import check, registry
from segkit.config.values import expand_home
from segkit.data import label_map
from segkit.data.label_map import LabelMap
from segkit.data.reading import BAND_KEYS, parse_bands, read_image
from segkit.licenses import build_ledger
from segkit.models import segmenter, weights
from segkit.runtime import distributed, files
from segkit.types import Bands

PIL_MODES = ("1", "L", "P", "RGB")  # convert to RGB without loss


class LoadedModel(NamedTuple):
    """A network with its weights, on its device, and its classes."""

    model: segmenter.Segmenter
    table: LabelMap
    data: Mapping[str, Any] = MappingProxyType({})  # settings of the training data, if known
    licenses: Mapping[str, str] = MappingProxyType({})  # of code, pretrained weights and data, if known


class Predictor:
    """A trained network with an evaluation protocol.

    Attributes:
        network: the plain PyTorch module, to export or to train.
        fast: a copy of it prepared for prediction; it may have operators that only PyTorch runs.
        table: names, colors and dataset ids of the classes.
        bands: the bands it reads from a file, and their value ranges.
        data: settings of the training data, if known.
    """

    def __init__(self, trained: LoadedModel, protocol: inference.Protocol) -> None:
        self.data = trained.data
        self.bands = parse_bands(trained.data)
        self.table = trained.table
        self.protocol = protocol.resolve_precision(next(trained.model.parameters()).device)
        self.network = trained.model
        self.fast = inference.prepare(trained.model, precision=protocol.precision)

    def predict(self, image: Any) -> Any:
        """Return the class ids (H, W) of an image, or a list of them for several images.

        Args:
            image: path or bytes of a file (its EXIF orientation is applied), (H, W, 3) array of uint8 RGB, or
                PIL image (not rotated). A list or tuple of these, of any sizes, or an array (B, H, W, 3) is
                several images, predicted one by one. Networks of other bands take arrays (H, W, C) of their
                bands as stored.

        Raises:
            ValueError: the file does not exist or is not an image.
        """
        if _is_several(image):
            return [self.predict(one) for one in image]
        return inference.predict(self.fast, _read_image(image, self.bands), self.protocol).cpu().numpy()

    def probabilities(self, image: Any) -> Any:
        """Return class probabilities, (K, H, W) float32, or a list of them for several images."""
        if _is_several(image):
            return [self.probabilities(one) for one in image]
        pixels = _read_image(image, self.bands)
        return inference.predict_probabilities(self.fast, pixels, self.protocol).numpy()


def load(
    file: str | Path,
    *,
    device: str = "auto",
    protocol: inference.Protocol | None = None,
    plugins: Sequence[str] = (),
    trust_code: bool = False,
) -> Predictor:
    """Return a predictor for a checkpoint or an exported file.

    Args:
        file: such as ``runs/demo/best.pt``, a folder written by ``segkit.tools.share``, ``hf://user/name``,
            or an exported file such as ``best.onnx``, which runs on the CPU.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.
        protocol: None scores the complete image once at its own size.
        plugins: packages that hold components of the network; the error names those that are needed.
        trust_code: open a ``.pt2`` file, which can run any code.

    Raises:
        ValueError: the file is missing, damaged, not a checkpoint of segkit, or needs plug-ins.
    """
    registry.use_plugins(plugins)
    trained = _load_file(file, distributed.pick_device(device), trust_code=trust_code)
    return Predictor(trained, protocol or inference.Protocol())


def settings_from_checkpoint(given: dict[str, Any]) -> dict[str, Any]:
    """Return data, network and sizes stored in a checkpoint, as defaults below ``given``, the command line.

    Raises:
        ValueError: both a checkpoint and a network are given, or neither.
    """
    network, file = given.get("model", {}), given.get("checkpoint")
    has_network = "backbone" in network and "name" in network["backbone"]
    if given.get("predictions") is not None:
        if file is not None or has_network:
            raise ValueError("predictions= scores masks without a network. Leave out checkpoint= and model=")
        return {}
    if file is None:
        if not has_network or network.get("weights") is None or "data" not in given:
            raise ValueError(
                "no network is given. Give checkpoint=runs/NAME/best.pt; or, for published weights, all of "
                "model=..., model.weights=FILE and data=..."
            )
        return {}
    if has_network or "weights" in network:
        raise ValueError(
            f"checkpoint={file} holds a network with its weights; leave out model=... and model.weights=..., "
            "or leave out checkpoint="
        )
    if export.is_exported(file):
        stored = export.read_metadata(file)["settings"]
    else:
        stored = checkpoint.read_checkpoint(file)["settings"]
    _check_plugins(stored, file)
    defaults = {section: stored[section] for section in ("model", "data", "sizes") if section in stored}
    other_data = given.get("data", {})
    if "name" in other_data:  # another data set, but the bands that the network was trained on
        bands = {key: stored.get("data", {}).get(key) for key in BAND_KEYS if key in other_data}
        defaults["data"] = {key: value for key, value in bands.items() if value is not None}
    return defaults


def _check_plugins(settings: Mapping[str, Any], file: object) -> None:
    """Name the plug-ins that a checkpoint needs if its network or data are unknown."""
    try:
        for section in {"model", "data"} & settings.keys():
            check(section, settings[section])
    except ValueError:  # reported where the section is used
        registry.check_plugins_are_named(settings.get("plugins", ()), file)


def load_model(settings: dict[str, Any], device: torch.device) -> LoadedModel:
    """Return the network of ``checkpoint``, or of ``model.weights`` for the classes of ``data``.

    Raises:
        ValueError: the weights do not fit the network, or the classes are unknown.
    """
    file, network = settings["checkpoint"], settings["model"]
    if file is not None:
        if export.is_exported(file) and settings["device"] not in ("auto", "cpu"):
            raise ValueError(
                f"device={settings['device']}: exported files run on the CPU; leave out device=..."
            )
        return _load_file(file, device, network=network, trust_code=settings.get("trust_code", False))
    table = label_map.load_class_table(settings["data"])
    names = checkpoint.read_class_names(network["weights"])
    if names is not None:
        table = table.reorder(names, f"model.weights={network['weights']}")
    model = segmenter.build(table.num_classes, **network).to(device)
    model.class_names = table.names
    return LoadedModel(model, table, licenses=build_ledger(settings))


def _load_file(
    file: str | Path, device: torch.device, *, network: dict[str, Any] | None = None, trust_code: bool
) -> LoadedModel:
    """Return the network of a checkpoint, with the EMA weights if it has them, or of an exported file.

    ``network`` replaces the stored settings of the network.
    """
    if export.is_exported(file):
        exported: Any = export.load_exported(file, trust_code=trust_code)
        stored = exported.metadata["settings"].get("data", {})
        return LoadedModel(exported, exported.table, stored, exported.metadata["licenses"])
    content = checkpoint.read_checkpoint(file)
    stored = content["settings"]
    if network is None:
        _check_plugins(stored, file)
    table = LabelMap.from_plain(content["classes"])
    settings = check("model", network or stored.get("model", {}))
    model = segmenter.build(table.num_classes, **segmenter.remove_weights(settings))
    model.class_names = table.names
    state = content.get("average") or content["model"]
    differing = files.compare_states(model.state_dict(), state)
    if any(differing):
        raise ValueError(f"the weights of the checkpoint do not fit the network of model.*: {differing}")
    weights.check_finite(state, "the checkpoint")
    model.load_state_dict(state)
    return LoadedModel(model.to(device), table, stored.get("data", {}), content.get("licenses") or {})


def _is_several(image: Any) -> bool:
    return isinstance(image, list | tuple) or getattr(image, "ndim", 3) == 4


class _InMemoryFile(bytes):
    """The bytes of a file, with what ``read_image`` uses of a path."""

    def read_bytes(self) -> bytes:
        return self

    def __str__(self) -> str:
        return f"image file of {len(self)} bytes"


def _read_image(image: Any, bands: Bands) -> np.ndarray:
    """Return an image of any accepted type as an array (H, W, C)."""
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, str | Path):
        return read_image(Path(expand_home(str(image))), bands)
    if isinstance(image, bytes | bytearray | memoryview):
        return read_image(cast("Path", _InMemoryFile(image)), bands)
    if not bands.is_photograph:
        raise ValueError(
            f"image of type {type(image).__name__}: this network reads bands {bands.chosen} in the range "
            f"{bands.range}. Give the path or bytes of a file, or an (H, W, C) array of them"
        )
    if hasattr(image, "convert") and hasattr(image, "getbands"):  # a PIL image
        is_opaque = image.mode in ("LA", "RGBA") and image.getchannel("A").getextrema()[0] == 255
        if image.mode not in PIL_MODES and not is_opaque:
            raise ValueError(
                f"PIL image of mode {image.mode}: must be opaque 8-bit gray or RGB. Convert it, for example "
                "with image.convert('RGB')"
            )
        return np.asarray(image.convert("RGB"))
    raise ValueError(
        f"image of type {type(image).__name__}: give a path, the bytes of a file, a PIL image, or an "
        "(H, W, 3) array of uint8 RGB"
    )
