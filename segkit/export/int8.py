"""Static quantization to 8 bits: weights per output channel, activations by what calibration images give.

The result is an ONNX file in QDQ form (quantize, dequantize), which onnxruntime and OpenVINO both run with
integer arithmetic (AVX-512 VNNI where the processor has it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkit.export.onnx import suppress_exporter_output
from segkit.export.optional import import_optional

QUANTIZED = ("Conv", "Add", "Mul", "Concat", "AveragePool", "MaxPool")
"""What runs on integers; attention weights, resizing and argmax stay float."""


def quantize(source: Path, path: Path, batches: Sequence[np.ndarray]) -> None:
    """Write the ONNX file ``source`` in 8 bits.

    Args:
        source: in float32.
        path: to write; the metadata go along.
        batches: calibration images as the file takes them.
    """
    onnx = import_optional("onnx")
    quantization: Any = import_optional("onnxruntime.quantization")
    prepared = path.with_name(f"{path.stem}.prepared.onnx")
    with suppress_exporter_output():
        quantization.shape_inference.quant_pre_process(
            str(source), str(prepared), skip_symbolic_shape=True, auto_merge=True
        )
        graph = onnx.load(str(prepared)).graph
        quantization.quantize_static(
            str(prepared),
            str(path),
            _reader(quantization, graph.input[0].name, batches),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=_ends(graph),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
    prepared.unlink()


def _ends(graph: Any) -> list[str]:
    """What stands before the first convolution and after the last one: normalization, and the result."""
    nodes = list(graph.node)
    places = [i for i, node in enumerate(nodes) if node.op_type == "Conv"]
    return [node.name for i, node in enumerate(nodes) if not places[0] <= i <= places[-1]]


def _reader(quantization: Any, name: str, batches: Sequence[np.ndarray]) -> Any:
    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.left, None)
            return None if batch is None else {name: batch}

    return Reader()
