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
from segkit.models import segmenter, weights
from segkit.types import ClassTable


def build_model(settings: Mapping[str, Any], table: ClassTable) -> tuple[segmenter.Segmenter, list[str]]:
    """Build a segmenter and return it with messages about the weights it starts from.

    Raises:
        ValueError: the weights do not fit; keys that differ for other reasons than the classes are named.
        OSError: the download failed.
    """
    source, class_names = settings.get("weights"), list(table.names)
    if source is not None:
        settings = segmenter.remove_weights(settings)
    model = segmenter.build(table.num_classes, **settings)
    model.class_names = class_names
    if source is None:
        return model, []
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
        order, state = torch.tensor([stored_names.index(name) for name in class_names]), model.state_dict()
        for name, dimensions in class_tensors.items():
            for dimension in dimensions:
                state[name].copy_(state[name].index_select(dimension, order))
        messages.append("classes are matched by name; the file has them in another order")
    return model, messages


def read_model_settings(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the section ``model`` of the segkit checkpoint ``model.weights``, None for other files."""
    source = settings["model"]["weights"]
    # errors are reported when the model is built
    with contextlib.suppress(ValueError, KeyError, AttributeError):
        path = Path(str(source).removeprefix("file://")).expanduser()
        stored = checkpoint.read_checkpoint(path, mapped=True)["settings"]["model"]
        backbone = {key: None if key == "weights" else value for key, value in stored["backbone"].items()}
        return {**stored, "weights": source, "backbone": backbone}
    return None


def find_class_tensors(model: segmenter.Segmenter, settings: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the tensors whose shape depends on the number of classes, each with those dimensions.

    Builds the network, without weights, once more for another number of classes, on the meta device.
    """
    other_count = 3 if model.num_classes == 2 else 2
    with torch.device("meta"):
        other = segmenter.build(other_count, **settings).state_dict()
    class_tensors = {}
    for name, tensor in model.state_dict().items():
        dimensions = [d for d, size in enumerate(other[name].shape) if tensor.shape[d] != size]
        if dimensions:
            class_tensors[name] = dimensions
    return class_tensors
