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

import torch

from segkit.export import torch_export
from segkit.export.interfaces import ExportKind, LogitsNetwork, Run
from segkit.runtime.extras import import_extra

PRECISIONS = ("float32",)


def write(network: LogitsNetwork, path: Path, kind: ExportKind, metadata: Mapping[str, Any]) -> None:
    """Write the network, with each metadata entry as JSON."""
    onnx = import_extra("onnx", extra="export", needed_by="format=onnx")
    import_extra("onnxscript", extra="export", needed_by="format=onnx")
    program, example = torch_export.export_program(network, kind)
    height = 1 if kind.interface == "ids" else 2
    names = {0: "batch", height: "height", height + 1: "width"}
    with suppress_exporter_output():
        exported = torch.onnx.export(
            program,
            (example,),
            dynamo=True,
            input_names=["image"],
            output_names=[kind.interface],
            dynamic_shapes=(names,) if kind.image_size is None else None,
            external_data=False,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


@contextlib.contextmanager
def suppress_exporter_output() -> Iterator[None]:
    """Silence exporters; the comparison with PyTorch finds their errors."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file, each value as JSON; a ValueError refuses weights in other files."""
    onnx = import_extra("onnx", extra="export", needed_by="format=onnx")
    model = onnx.load(str(path), load_external_data=False)
    if _has_external_data(model, onnx.TensorProto):
        raise ValueError("it refers to weights in other files")
    return {entry.key: entry.value for entry in model.metadata_props}


def _has_external_data(message: Any, tensor_type: Any) -> bool:
    """Return whether a tensor in a protobuf message is stored in another file."""
    if isinstance(message, tensor_type):
        return message.data_location == tensor_type.EXTERNAL
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            children = value if hasattr(value, "__len__") else [value]
            if any(_has_external_data(child, tensor_type) for child in children):
                return True
    return False


def open_session(path: Path, *, threads: int, precision: str = "float32") -> Run:
    """Return a function that runs a batch by onnxruntime on the CPU, in the file's precision."""
    runtime = import_extra("onnxruntime", extra="export", needed_by="format=onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    # waiting threads would keep the cores busy that read images
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]
