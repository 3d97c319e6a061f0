"""A trained network in use: rebuilt from a run's checkpoint alone, or from settings with published weights.

In Python, ``segkit.load("runs/demo/best.pt").predict("photo.jpg")`` needs no settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast, overload

import numpy as np
import torch

from segkit import checkpoint, inference
from segkit.config import check, registry
from segkit.config.values import expand_home
from segkit.data import label_map
from segkit.data.label_map import LabelMap
from segkit.data.reading import BAND_KEYS, parse_bands, read_image
from segkit.export import deployed
from segkit.licenses import build_ledger
from segkit.models import segmenter, weights
from segkit.runtime import distributed, files
from segkit.types import Bands

Several = list[Any] | tuple[Any, ...]
PIL_MODES = ("1", "L", "P", "RGB")  # what converts to RGB with nothing lost
ImageLike = np.ndarray | str | Path | bytes | bytearray | memoryview | Any  # Any: a PIL image


class LoadedModel(NamedTuple):
    """A network with its weights, on its device, and the classes it tells apart."""

    model: segmenter.Segmenter
    table: LabelMap
    data: Mapping[str, Any] = MappingProxyType({})  # settings of the data it was trained on, where known
    licenses: Mapping[str, str] = MappingProxyType({})  # of code, pretrained weights and data, where known


class Predictor:
    """A trained network that looks at images under one protocol.

    Attributes:
        network: the plain PyTorch module, to export or to train on.
        fast: a copy of it that is prepared for prediction; it may hold operations that nothing else knows.
        table: names, colors and the data set's own ids of the classes.
        bands: which bands of a file it takes, and what their values mean.
    """

    def __init__(self, trained: LoadedModel, protocol: inference.Protocol) -> None:
        self.bands = parse_bands(trained.data)
        self.table, self.protocol = (
            trained.table,
            protocol.resolve_precision(next(trained.model.parameters()).device),
        )
        self.network = trained.model
        self.fast = inference.prepare(trained.model, precision=protocol.precision)

    @overload
    def predict(self, image: Several) -> list[np.ndarray]: ...  # pyright: ignore[reportOverlappingOverload]
    @overload
    def predict(self, image: ImageLike) -> np.ndarray: ...
    def predict(self, image: Any) -> Any:
        """Class ids (H, W) of an image, or a list of them for several images.

        Args:
            image: the path of a file, the bytes of one, an (H, W, 3) array of uint8 RGB, or a PIL image as it
                lies (of a file the EXIF orientation is followed). A list or tuple of these, of any sizes, or
                an array (B, H, W, 3), is several images; each is predicted as if it were alone.
                A network of other bands takes arrays (H, W, C) of its bands as stored.

        Raises:
            ValueError: there is no such file, or it is not an image.
        """
        return _each(self._ids, image)

    @overload
    def probabilities(self, image: Several) -> list[np.ndarray]: ...  # pyright: ignore[reportOverlappingOverload]
    @overload
    def probabilities(self, image: ImageLike) -> np.ndarray: ...
    def probabilities(self, image: Any) -> Any:
        """As ``predict``, but the probability of each class, (K, H, W) float32."""
        return _each(self._probabilities, image)

    def _ids(self, image: ImageLike) -> np.ndarray:
        return inference.predict(self.fast, _image(image, self.bands), self.protocol).cpu().numpy()

    def _probabilities(self, image: ImageLike) -> np.ndarray:
        return inference.predict_probabilities(self.fast, _image(image, self.bands), self.protocol).numpy()


def load(
    file: str | Path,
    *,
    device: str = "auto",
    protocol: inference.Protocol | None = None,
    plugins: Sequence[str] = (),
    trust_code: bool = False,
) -> Predictor:
    """The network of a run's checkpoint, or of an exported file, ready to predict.

    Args:
        file: such as ``runs/demo/best.pt``, a folder made by ``segkit.tools.share``, ``hf://user/name``,
            or an exported file such as ``best.onnx``, which runs on the CPU.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU when there is one.
        protocol: None looks at the image once, as a whole.
        plugins: packages that hold components of the network; a file that needs one says which.
        trust_code: open a ``.pt2`` file, which can run any code.

    Raises:
        ValueError: the file is missing, damaged, not a checkpoint of segkit, or needs plug-ins.
    """
    registry.use_plugins(plugins)
    if deployed.is_exported(file):
        return Predictor(_load_deployed(file, trust_code=trust_code), protocol or inference.Protocol())
    content = checkpoint.read_checkpoint(file)
    table = LabelMap.from_plain(content["classes"])
    _refuse_unnamed_plugins(content["settings"], file)
    model = _rebuild_segmenter(content, content["settings"].get("model", {}), table)
    return Predictor(
        LoadedModel(model.to(distributed.pick_device(device)), table, content["settings"].get("data", {})),
        protocol or inference.Protocol(),
    )


def settings_from_checkpoint(given: dict[str, Any]) -> dict[str, Any]:
    """What the checkpoint says of data, network and sizes, as defaults for what the command line leaves open.

    Raises:
        ValueError: both a checkpoint and a network are given, or neither.
    """
    network, file = given.get("model", {}), given.get("checkpoint")
    chosen = "backbone" in network and "name" in network["backbone"]
    if file is None:
        if not chosen or network.get("weights") is None or "data" not in given:
            raise ValueError(
                "what is to be used? Give checkpoint=runs/NAME/best.pt; or, for published weights, all of "
                "model=..., model.weights=FILE and data=..."
            )
        return {}
    if chosen or "weights" in network:
        raise ValueError(
            f"checkpoint={file} holds a network with its weights; leave out model=... and model.weights=..., "
            "or leave out checkpoint="
        )
    if deployed.is_exported(file):
        own = deployed.read_metadata(file)["settings"]
    else:
        own = checkpoint.read_checkpoint(file)["settings"]
    _refuse_unnamed_plugins(own, file)
    found = {section: own[section] for section in ("model", "data", "sizes") if section in own}
    if "name" in (other := given.get("data", {})):  # other data, seen as the network was trained to see
        seen = {key: own.get("data", {}).get(key) for key in BAND_KEYS if key in other}
        found["data"] = {key: value for key, value in seen.items() if value is not None}
    return found


def _refuse_unnamed_plugins(own: Mapping[str, Any], file: object) -> None:
    """A checkpoint whose network or data are none that is known says which plug-ins it was made with."""
    try:
        for section in {"model", "data"} & own.keys():
            check(section, own[section])
    except ValueError:  # whoever uses the section says what is wrong with it
        registry.check_plugins_are_named(own.get("plugins", ()), file)


def load_model(settings: dict[str, Any], device: torch.device) -> LoadedModel:
    """The network that a command's settings name.

    Args:
        settings: with a ``checkpoint``, or with ``model.weights`` for a network on the classes of ``data``.
        device: to put it on.

    Raises:
        ValueError: the weights do not fit the network, or the classes are not known.
    """
    if settings["checkpoint"] is not None and deployed.is_exported(settings["checkpoint"]):
        if settings["device"] not in ("auto", "cpu"):
            raise ValueError(
                f"device={settings['device']}: an exported file runs on the CPU here; leave out device=..."
            )
        return _load_deployed(settings["checkpoint"], trust_code=settings.get("trust_code", False))
    if settings["checkpoint"] is not None:
        content = checkpoint.read_checkpoint(settings["checkpoint"])
        table = LabelMap.from_plain(content["classes"])
        model = _rebuild_segmenter(content, settings["model"], table).to(device)
        return LoadedModel(model, table, content["settings"].get("data", {}), content.get("licenses") or {})
    table = label_map.load_class_table(settings["data"])
    if (names := checkpoint.read_class_names(settings["model"]["weights"])) is not None:
        table = table.reorder(names, f"model.weights={settings['model']['weights']}")
    model = segmenter.build(table.num_classes, **settings["model"]).to(device)
    model.class_names = table.names
    return LoadedModel(model, table, licenses=build_ledger(settings))


def _load_deployed(file: str | Path, *, trust_code: bool) -> LoadedModel:
    about = deployed.read_metadata(file)
    table = LabelMap.from_plain(about["classes"])
    model: Any = deployed.load_exported(file, table.num_classes, about, trust_code=trust_code)
    return LoadedModel(model, table, about["settings"].get("data", {}), about.get("licenses", {}))


def _rebuild_segmenter(
    content: dict[str, Any], network: dict[str, Any], table: LabelMap
) -> segmenter.Segmenter:
    """Return the network of a checkpoint, with the averaged weights if the run kept an EMA."""
    network = check("model", network)
    model = segmenter.build(
        table.num_classes, **segmenter.without_weights(network)
    )  # not where training started
    model.class_names = table.names
    state = content.get("average") or content["model"]
    differing = files.compare_states(model.state_dict(), state)
    if any(differing):
        raise ValueError(f"the weights of the checkpoint do not fit model.*: {differing}")
    weights.check_finite(state, "the checkpoint")
    model.load_state_dict(state)
    return model


def _each(answer: Callable[[Any], np.ndarray], image: Any) -> np.ndarray | list[np.ndarray]:
    """The answer for an image, or those for several, one after another."""
    if not isinstance(image, list | tuple) and getattr(image, "ndim", 3) != 4:
        return answer(image)
    answers = []
    for place, one in enumerate(image):
        try:
            answers.append(answer(one))
        except ValueError as error:
            raise ValueError(f"image {place} of {len(image)}: {error}") from error
    return answers


class _Held:
    """The bytes of a file, to be read with the same care as a file."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read_bytes(self) -> bytes:
        return self.data

    def __str__(self) -> str:
        return f"the {len(self.data)} bytes given"


def _image(image: ImageLike, meant: Bands) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, str | Path):
        return read_image(Path(expand_home(str(image))), meant)
    if isinstance(image, bytes | bytearray | memoryview):
        return read_image(cast("Path", _Held(bytes(image))), meant)
    if not meant.photographs:
        raise ValueError(
            f"an image of type {type(image).__name__}: this network reads bands {meant.chosen} in the range "
            f"{meant.range}; give the path of a file, its bytes, or an (H, W, C) array of them"
        )
    if hasattr(image, "convert") and hasattr(image, "getbands"):  # PIL's, without needing it
        opaque = image.mode in ("LA", "RGBA") and image.getchannel("A").getextrema()[0] == 255
        if image.mode not in PIL_MODES and not opaque:
            raise ValueError(
                f"a PIL image of mode {image.mode}, which is more than opaque 8-bit gray or RGB; say what is"
                " meant, for example with image.convert('RGB')"
            )
        return np.asarray(image.convert("RGB"))
    raise ValueError(
        f"an image of type {type(image).__name__}: give a path, the bytes of a file, a PIL image, or an "
        "(H, W, 3) array of uint8 RGB"
    )
