"""How the arithmetic of a run is done."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch

PRECISION = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """How the arithmetic is done; nothing here changes what is computed beyond rounding."""

    precision: Literal["float32", "bf16", "fp16"] = "float32"
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = False

    def apply(self) -> None:
        """Set torch's process-wide switches."""
        torch.backends.cudnn.benchmark = not self.deterministic
        torch.use_deterministic_algorithms(self.deterministic)
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which a network runs."""
        precision = PRECISION[self.precision]
        return torch.autocast(device.type, precision, enabled=precision is not torch.float32)
