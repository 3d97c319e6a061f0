"""Static quantization to int8: weights per output channel, activations by ranges of calibration images.

The result is an ONNX file with QuantizeLinear and DequantizeLinear nodes (QDQ), which onnxruntime and
OpenVINO run with integer arithmetic (AVX-512 VNNI if available).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from segkit.export.onnx import suppress_exporter_output
from segkit.runtime.extras import import_extra

QUANTIZED = ("Conv", "Relu", "Clip", "Add", "Mul", "Concat", "AveragePool", "MaxPool")
"""Operators run on integers; attention weights, resizing and argmax stay float.

Without ``Relu`` and ``Clip`` (ReLU6) a convolution is quantized before its activation, whose range is wider.
"""


def quantize(source: Path, path: Path, images: Sequence[np.ndarray]) -> None:
    """Write the float32 ONNX file ``source`` in int8 to ``path``, with its metadata."""
    onnx = import_extra("onnx", extra="export", needed_by="precision=int8")
    quantization: Any = import_extra("onnxruntime.quantization", extra="export", needed_by="precision=int8")
    prepared = path.with_name(f"{path.stem}.prepared.onnx")
    with suppress_exporter_output():
        quantization.shape_inference.quant_pre_process(
            str(source), str(prepared), skip_symbolic_shape=True, auto_merge=True
        )
        graph = onnx.load(str(prepared)).graph
        inputs = ({graph.input[0].name: image} for image in images)
        quantization.quantize_static(
            str(prepared),
            str(path),
            SimpleNamespace(get_next=lambda: next(inputs, None)),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=_list_outer_nodes(graph),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
    prepared.unlink()


def _list_outer_nodes(graph: Any) -> list[str]:
    """Return the nodes before the first and after the last convolution: normalization and result."""
    nodes = list(graph.node)
    convolutions = [i for i, node in enumerate(nodes) if node.op_type == "Conv"]
    return [node.name for i, node in enumerate(nodes) if not convolutions[0] <= i <= convolutions[-1]]
