"""CPU optimizations, applied to a finished model from outside.

``optimize_for_cpu(model)`` changes a network for training; ``prepare_process()`` and ``hold_memory()`` change
the process. Training calls all three (``runtime.optimize_cpu``). ``segkit.inference.prepare`` calls
``replace_slow_modules``, ``hold_memory`` and ``onednn.fuse_operations``. Results differ from the plain
model's in rounding only. Every optimization gains at least 3 % in time or memory. Measured (ResNeSt-50: a
step of DeepLabV3 on it at batch 2, crop 256, float32, one thread of an AMD EPYC; the others in bf16 on an
Intel Xeon with AMX; prediction at 1024x2048 on two cores, each on top of those above it):

=================================  ======================================================================
optimization                       gain
=================================  ======================================================================
``recompute``                      ResNeSt-50: 11 % of memory (half at 4 x 480), for 6 % more time
``conv3x3``                        ResNeSt-50: 11 % of time; AMX: 1.04 s to predict 512x683 (smp: 5.05 s)
``conv3x3`` (wide)                 8 % of a step of UPerNet on ConvNeXt-Tiny
``depthwise``                      half of a step of DeepLabV3 on EfficientNet-Lite0, FCN on ConvNeXt-Tiny
``resize``                         12 % of a step of UPerNet on ConvNeXt-Tiny
``blocks.FastSplitAttention``      ResNeSt-50: 5 % of time, 2 % of memory
``blocks.FastImagePooling``        12 % of ASPP's time in bf16
``skip_compiler_import``           1.5 s and 154 MiB at the start
``hold_memory``                    a step in bf16: 1 % of time, 4 % of memory; prediction: 4.3 to 3.0 s
``onednn``, sums and ReLUs         prediction: 3.0 to 2.6 s
``onednn``, means; image pooling   prediction: 2.6 to 2.4 s
``conv3x3``, gathered images       prediction: 2.4 to 2.1 s
=================================  ======================================================================
"""

from segkit.cpu.optimize import optimize_for_cpu, replace_slow_modules
from segkit.cpu.process import hold_memory, prepare_process, release_memory

__all__ = ["hold_memory", "optimize_for_cpu", "prepare_process", "release_memory", "replace_slow_modules"]
