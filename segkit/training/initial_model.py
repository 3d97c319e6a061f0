"""Build the model that a training starts from: random weights, a backbone's, or those of a whole model.

The weights of a whole model may have other classes. Tensors whose shape depends on the number of classes then
keep their random values.
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
from segkit.types import MAX_CLASSES, ClassTable


def build_model(settings: Mapping[str, Any], table: ClassTable) -> tuple[segmenter.Segmenter, list[str]]:
    """Build a segmenter and return it with messages about the weights it starts from.

    Raises:
        ValueError: the weights do not fit; keys that differ for other reasons than the classes are named.
        OSError: the download failed.
    """
    source, class_names = settings.get("weights"), list(table.names)
    if source is None:
        model = segmenter.build(table.num_classes, **settings)
        model.class_names = class_names
        return model, []
    settings = segmenter.without_weights(settings)
    model = segmenter.build(table.num_classes, **settings)
    model.class_names = class_names
    stored_names = checkpoint.read_class_names(source)  # None: the file does not name its classes
    has_same_classes = stored_names is not None and sorted(stored_names) == sorted(class_names)
    class_tensors = find_class_tensors(model, settings)
    report = weights.load_segmenter(
        model,
        source,
        settings.get("stem_weights", "mean"),
        class_tensors=list(class_tensors),
        classes_differ=stored_names is not None and not has_same_classes,
    )
    messages = [f"model.weights={source}: {report}"]
    if stored_names is None and not report.reinitialized:
        messages.append(
            f"the file does not name its classes; they are assumed to be the {table.num_classes} classes of"
            f" {table.name}, in this order"
        )
    if stored_names is not None and has_same_classes and stored_names != class_names:
        _reorder_classes(model, class_tensors, [stored_names.index(name) for name in class_names])
        messages.append("classes are matched by name; the file has them in another order")
    return model, messages


def read_model_settings(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the section ``model`` of the segkit checkpoint ``model.weights``, None for other files."""
    source = settings["model"]["weights"]
    with contextlib.suppress(ValueError, KeyError, TypeError):  # errors are reported when the model is built
        path = Path(str(source).removeprefix("file://")).expanduser()
        stored = checkpoint.read_checkpoint(path, mapped=True)["settings"]["model"]
        backbone = dict(stored["backbone"])
        if "weights" in backbone:
            backbone["weights"] = None
        return {**stored, "weights": source, "backbone": backbone}
    return None


def find_class_tensors(model: segmenter.Segmenter, settings: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the tensors whose shape depends on the number of classes, each with those dimensions.

    Builds the heads once more for another number of classes, on the meta device.
    """
    if model.num_classes < MAX_CLASSES:
        other_count = model.num_classes + 1
    else:
        other_count = model.num_classes - 1
    arguments = {
        "in_channels": model.backbone.out_channels,
        "output_stride": model.backbone.output_stride,
        "num_classes": other_count,
        "align_corners": model.align_corners,
    }
    state = model.state_dict()
    class_tensors: dict[str, list[int]] = {}
    for part in ("head", "auxiliary"):
        if not settings.get(part):
            continue
        with torch.device("meta"):
            other_head = registry.build("models.heads", settings[part], **arguments)
        for name, tensor in other_head.state_dict().items():
            shape = state[f"{part}.{name}"].shape
            if shape != tensor.shape:
                dimensions = [d for d, size in enumerate(tensor.shape) if shape[d] != size]
                class_tensors[f"{part}.{name}"] = dimensions
    return class_tensors


def _reorder_classes(
    model: segmenter.Segmenter, class_tensors: Mapping[str, list[int]], order: list[int]
) -> None:
    """Reorder the classes of a model in place.

    Raises:
        ValueError: a dimension that depends on the number of classes does not have one entry per class.
    """
    state, index = model.state_dict(), torch.tensor(order)
    for name, dimensions in class_tensors.items():
        for dimension in dimensions:
            entries = state[name].shape[dimension]
            if entries != len(order):
                raise ValueError(
                    f"{name}: has {entries} entries for {len(order)} classes, so its classes cannot be"
                    " reordered. List the classes in the checkpoint's order."
                )
            state[name].copy_(state[name].index_select(dimension, index))
