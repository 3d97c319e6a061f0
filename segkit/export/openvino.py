"""OpenVINO: the ONNX file converted, two files (.xml and .bin), run by OpenVINO on the CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from segkit.export.interfaces import ExportKind
from segkit.export.optional import import_optional

SECTION = "segkit"  # of the file's run-time information
PRECISIONS = {"float32": "f32", "bf16": "bf16"}


def convert(source: Path, path: Path, kind: ExportKind, about: Mapping[str, Any]) -> None:
    """Write what an ONNX file holds as OpenVINO's two files; ``fp16`` stores weights in half precision."""
    openvino = import_optional("openvino")
    model = openvino.convert_model(str(source))
    for key, value in about.items():
        model.set_rt_info(json.dumps(value), [SECTION, key])
    openvino.save_model(model, str(path), compress_to_fp16=kind.precision == "fp16")


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file.

    Raises:
        ValueError: it is not such a file, or its weights are not beside it.
    """
    try:
        found = ElementTree.parse(path).getroot().find(f"rt_info/{SECTION}")
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged, or not an OpenVINO file ({error})") from error
    if not path.with_suffix(".bin").is_file():
        raise ValueError(
            f"{path}: its weights, {path.with_suffix('.bin').name}, are not beside it; both are needed"
        )
    return {} if found is None else {entry.tag: entry.get("value", "") for entry in found}


class Session:
    """A file that OpenVINO runs on the CPU; ``bf16`` is its hint for what is float in the file."""

    runtime = "openvino"
    precisions = ("float32", "bf16")

    def __init__(self, path: Path, *, threads: int, precision: str = "float32") -> None:
        openvino = import_optional("openvino")
        options = {
            # its own default is bf16 wherever the processor has units for it, at another result
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            core = openvino.Core()
            self.request = core.compile_model(
                core.read_model(str(path)), "CPU", options
            ).create_infer_request()
        except RuntimeError as error:
            raise ValueError(f"{path}: OpenVINO refuses it: {str(error).strip().splitlines()[-1]}") from error

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Run one batch."""
        return self.request.infer({0: image})[0].copy()  # the request's own memory is written again
