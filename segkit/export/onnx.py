"""ONNX, written through ``torch.export`` and run by onnxruntime."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from segkit.export import torch_export
from segkit.export.interfaces import ExportKind
from segkit.export.optional import import_optional
from segkit.runtime.text import first_line


def write(network: nn.Module, path: Path, kind: ExportKind, about: Mapping[str, Any]) -> None:
    """Write the network, with each entry of ``about`` as JSON in its metadata."""
    onnx = import_optional("onnx")
    import_optional("onnxscript")
    program, example = torch_export.export_program(network, kind)
    with suppress_exporter_output():
        made = torch.onnx.export(
            program,
            (example,),
            dynamo=True,
            input_names=["image"],
            output_names=[kind.interface],
            external_data=False,
            verbose=False,
        )
    assert made is not None
    model = made.model_proto
    _name_dimensions(model, kind)
    write_metadata(model, about)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def write_metadata(model: Any, about: Mapping[str, Any]) -> None:
    """Put facts into the metadata of a loaded file, each as JSON."""
    onnx = import_optional("onnx")
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in about.items()})


def _name_dimensions(model: Any, kind: ExportKind) -> None:
    """Sizes that are free get names, not the numbers of the example's symbols."""
    if kind.image_size is not None:
        return
    names = ["batch", "height", "width"]
    places = (0, 1, 2) if kind.interface == "ids" else (0, 2, 3)
    for place, name in zip(places, names, strict=True):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_param = name
        cell = name if kind.interface == "ids" or place == 0 else f"{name}_of_head"
        model.graph.output[0].type.tensor_type.shape.dim[place].dim_param = cell
    del model.graph.value_info[:]  # they speak of the old names; runtimes infer them


@contextlib.contextmanager
def suppress_exporter_output() -> Iterator[None]:
    """Without what exporters print and warn of: what they got wrong, the comparison finds."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file.

    Raises:
        ValueError: it is not an ONNX file, or it names further files.
    """
    onnx = import_optional("onnx")
    try:
        model = onnx.load(str(path), load_external_data=False)
        has_files = _names_files(model, onnx.TensorProto)
    except Exception as error:  # protobuf has errors of its own
        raise ValueError(f"{path}: damaged, or not an ONNX file ({first_line(error)})") from error
    if has_files:
        raise ValueError(f"{path}: refused, because it reads weights from other files")
    return {entry.key: entry.value for entry in model.metadata_props}


def _names_files(message: Any, tensor: Any) -> bool:
    """Return whether a tensor below a protobuf message lies in another file."""
    if isinstance(message, tensor):
        return message.data_location == tensor.EXTERNAL
    values = [value for field, value in message.ListFields() if field.type == field.TYPE_MESSAGE]
    each = [one for value in values for one in (value if hasattr(value, "__len__") else [value])]
    return any(_names_files(one, tensor) for one in each)


class Session:
    """A file that onnxruntime runs on the CPU, in the file's own precision."""

    runtime = "onnxruntime"
    precisions = ("float32",)

    def __init__(self, path: Path, *, threads: int, precision: str = "float32") -> None:
        runtime = import_optional("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors alone
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # leaves the core to the reader
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ValueError(f"{path}: onnxruntime refuses it: {first_line(error)}") from error
        self.input = self.session.get_inputs()[0].name

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Run one batch."""
        return self.session.run(None, {self.input: image})[0]
