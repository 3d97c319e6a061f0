"""The network that a training starts from: from scratch, a backbone's weights, or a whole model's.

The weights of a whole model may be of other classes: what depends on the classes then keeps its fresh values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from segkit import checkpoint, components
from segkit.data.labels import LabelTable
from segkit.models import segmenter, weights
from segkit.models.published import file_of
from segkit.types import MOST_CLASSES, ClassTable


def network(settings: Mapping[str, Any], table: ClassTable) -> tuple[segmenter.Segmenter, list[str]]:
    """A segmenter from settings, and in words what became of the weights it starts from.

    Args:
        settings: the ``model`` section.
        table: the classes it is to tell apart.

    Raises:
        ValueError: the weights do not fit; every key that does not, and does not depend on the classes, is
            named.
        OSError: the download failed.
    """
    source = settings.get("weights")
    if source is None:
        return segmenter.build(table.num_classes, **settings), []
    blank = segmenter.unloaded(settings)
    model = segmenter.build(table.num_classes, **blank)
    theirs = _names(source)
    loaded = weights.load_segmenter(
        model,
        source,
        settings.get("stem_weights", "mean"),
        of_classes=class_tensors(model, blank),
        other_classes=theirs is not None and theirs != list(table.names),
    )
    words = [f"model.weights={source}: {loaded}"]
    if theirs is None and not loaded.renewed:
        words.append(
            f"the file does not name its classes: they are taken for the {table.num_classes} of {table.name},"
            " in this order"
        )
    return model, words


def network_of_weights(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The section ``model`` of the checkpoint of segkit that ``model.weights`` names; None without one.

    Args:
        settings: composed, not yet checked.
    """
    source = settings["model"]["weights"]
    with contextlib.suppress(ValueError, KeyError, TypeError):  # the build of the network tells of faults
        found = checkpoint.read(Path(str(source).removeprefix("file://")).expanduser(), mapped=True)
        network = found["settings"]["model"]
        backbone = {key: None if key == "weights" else value for key, value in network["backbone"].items()}
        return {**network, "weights": source, "backbone": backbone}
    return None


def class_tensors(model: segmenter.Segmenter, settings: Mapping[str, Any]) -> list[str]:
    """Names of the tensors of a model whose shape depends on the number of classes, whatever its heads are.

    The heads are built once more for another number of classes, without memory for their values.

    Args:
        model: of these settings.
        settings: the ``model`` section.
    """
    other = model.num_classes + 1 if model.num_classes < MOST_CLASSES else model.num_classes - 1
    late = {"in_channels": model.backbone.out_channels, "output_stride": model.backbone.output_stride}
    late |= {"num_classes": other, "align_corners": model.align_corners}
    shapes: dict[str, torch.Size] = {}
    for part in ("head", "auxiliary"):
        if settings.get(part):
            with torch.device("meta"):
                built = components.build("models.heads", settings[part], **late)
            shapes |= {f"{part}.{name}": tensor.shape for name, tensor in built.state_dict().items()}
    own = model.state_dict()
    return [name for name, shape in shapes.items() if own[name].shape != shape]


def _names(source: str) -> list[str] | None:
    """The classes that a file of weights names, as checkpoints of segkit do."""
    with contextlib.suppress(ValueError):
        classes = checkpoint.read(file_of(source), mapped=True)["classes"]
        return list(LabelTable.from_plain(classes).names)
    return None
