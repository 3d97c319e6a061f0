"""The network that a training starts from: from scratch, a backbone's weights, or a whole model's.

The weights of a whole model may be of other classes: what depends on the classes then keeps its fresh values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from segkit import checkpoint
from segkit.config import registry
from segkit.models import segmenter, weights
from segkit.types import MOST_CLASSES, ClassTable


def build_model(settings: Mapping[str, Any], table: ClassTable) -> tuple[segmenter.Segmenter, list[str]]:
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
        model = segmenter.build(table.num_classes, **settings)
        model.class_names = list(table.names)
        return model, []
    blank = segmenter.without_weights(settings)
    model = segmenter.build(table.num_classes, **blank)
    model.class_names = list(table.names)
    ours, theirs = list(table.names), checkpoint.class_names(source)
    of_classes = find_class_tensors(model, blank)
    permuted = theirs is not None and sorted(theirs) == sorted(ours)
    loaded = weights.load_segmenter(
        model,
        source,
        settings.get("stem_weights", "mean"),
        class_tensors=list(of_classes),
        classes_differ=theirs is not None and not permuted,
    )
    words = [f"model.weights={source}: {loaded}"]
    if theirs is not None and permuted and theirs != ours:
        _reorder(model, of_classes, [theirs.index(name) for name in ours])
        words.append("classes are matched by name: the file has them in another order")
    if theirs is None and not loaded.reinitialized:
        words.append(
            f"the file does not name its classes: they are taken for the {table.num_classes} of {table.name},"
            " in this order"
        )
    return model, words


def settings_of_weights(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The section ``model`` of the checkpoint of segkit that ``model.weights`` names; None without one.

    Args:
        settings: composed, not yet checked.
    """
    source = settings["model"]["weights"]
    with contextlib.suppress(ValueError, KeyError, TypeError):  # the build of the network tells of faults
        found = checkpoint.read_checkpoint(
            Path(str(source).removeprefix("file://")).expanduser(), mapped=True
        )
        stored = found["settings"]["model"]
        backbone = {key: None if key == "weights" else value for key, value in stored["backbone"].items()}
        return {**stored, "weights": source, "backbone": backbone}
    return None


def find_class_tensors(model: segmenter.Segmenter, settings: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the tensors whose shape depends on the number of classes, and in which dimensions.

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
                built = registry.build("models.heads", settings[part], **late)
            shapes |= {f"{part}.{name}": tensor.shape for name, tensor in built.state_dict().items()}
    own = model.state_dict()
    return {
        name: [d for d, size in enumerate(shape) if own[name].shape[d] != size]
        for name, shape in shapes.items()
        if own[name].shape != shape
    }


def _reorder(model: segmenter.Segmenter, of_classes: Mapping[str, list[int]], order: list[int]) -> None:
    """Put the classes of a model in another order, in place.

    Raises:
        ValueError: a dimension that depends on the number of classes is not one entry per class.
    """
    state, index = model.state_dict(), torch.tensor(order)
    for name, dimensions in of_classes.items():
        for dimension in dimensions:
            if state[name].shape[dimension] != len(order):
                raise ValueError(
                    f"{name}: {state[name].shape[dimension]} entries for {len(order)} classes cannot be put "
                    "in the order of the class table; list the classes as the checkpoint does"
                )
            state[name].copy_(state[name].index_select(dimension, index))
