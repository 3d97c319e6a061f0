"""OpenVINO: converted from ONNX to two files (.xml and .bin), run by OpenVINO on the CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from segkit.export.interfaces import ExportKind, Run
from segkit.runtime.extras import import_extra

SECTION = "segkit"  # of the file's run-time information
PRECISIONS = {"float32": "f32", "bf16": "bf16"}


def convert(source: Path, path: Path, kind: ExportKind, metadata: Mapping[str, Any]) -> None:
    """Convert an ONNX file to OpenVINO's two files; ``fp16`` stores weights in half precision."""
    openvino = import_extra("openvino", extra="export", needed_by="format=openvino")
    model = openvino.convert_model(str(source))
    for key, value in metadata.items():
        model.set_rt_info(json.dumps(value), [SECTION, key])
    openvino.save_model(model, str(path), compress_to_fp16=kind.precision == "fp16")


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file, each value as JSON; a ValueError reports missing weights."""
    entries = ElementTree.parse(path).getroot().find(f"rt_info/{SECTION}")
    if not path.with_suffix(".bin").is_file():
        raise ValueError(f"its weights, {path.with_suffix('.bin').name}, are not in its folder")
    if entries is None:
        return {}
    return {entry.tag: entry.get("value", "") for entry in entries}


def open_session(path: Path, *, threads: int, precision: str = "float32") -> Run:
    """Return a function that runs a batch by OpenVINO on the CPU; ``bf16`` is a hint for float operations."""
    openvino = import_extra("openvino", extra="export", needed_by="format=openvino")
    options = {
        # OpenVINO's default is bf16 if the processor has units for it, with other results
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(str(path)), "CPU", options)
    request = compiled.create_infer_request()
    return lambda images: request.infer({0: images})[0].copy()  # the request reuses its memory
