"""CPU optimizations, applied to a finished model from outside.

``optimize_for_cpu(model)`` changes a network for training; ``prepare_process()`` and ``hold_memory()`` change
the process. Training calls all three (``runtime.optimize_cpu``). ``segkit.inference.prepare`` calls
``replace_slow_modules``, ``hold_memory`` and ``onednn.fuse_operations``. Results differ from the plain
model's in rounding only. Every optimization here gains at least 3 % in time or memory.

Measured on an AMD EPYC (AVX-512), torch 2.15: one training step of DeepLabV3-ResNeSt-50, batch 2, crop 256,
float32; CPU time of one thread and peak memory of the process. ``docs/speed.md`` compares with others.

=================================  =======================  ===============================================
optimization                       time of a step           memory
=================================  =======================  ===============================================
``recompute``                      6 % more                 11 % less (1,642 of 1,846 MiB); half at 4 x 480
``conv3x3``                        11 % less                same
``blocks.FastSplitAttention``      5 % less                 2 % less
``blocks.FastImagePooling`` (bf16) 12 % of ASPP's less      same
``skip_compiler_import``           1.5 s less at the start  154 MiB less, 10 %
``hold_memory`` (bf16)             1 % less                 4 % less (1,361 of 1,417 MiB)
=================================  =======================  ===============================================

On an Intel Xeon with AMX, bf16, CPU time of one thread on a busy machine:

=================================  =========================================================================
optimization                       time
=================================  =========================================================================
``conv3x3``                        DeepLabV3-ResNeSt-50 at 512x683: 1.04 s, smp 5.05 s
``depthwise``                      a step at batch 4, crop 288: 50 % less (DeepLabV3 on EfficientNet-Lite0),
                                   48 % less (FCN on ConvNeXt-Tiny), 42 % less (UPerNet on it)
``conv3x3`` (wide)                 the step of UPerNet on ConvNeXt-Tiny: another 8 % less
``resize``                         the step of UPerNet on ConvNeXt-Tiny: another 12 % less
=================================  =========================================================================

Prediction with DeepLabV3-ResNeSt-50 at 1024x2048 on two idle cores of the Xeon, bf16, one after the other;
wall time and peak memory of the process. Without all of them: 4.3 s, 2,017 MiB.

=================================  ======================  ================================================
optimization                       time                    memory
=================================  ======================  ================================================
``hold_memory``                    3.0 s                   3,221 MiB
``onednn``, sums and ReLUs         2.6 s                   2,408 MiB
``onednn``, means; image pooling   2.4 s                   2,150 MiB
``conv3x3``, gathered images       2.1 s                   2,247 MiB
=================================  ======================  ================================================
"""

from segkit.cpu.optimize import optimize_for_cpu, replace_slow_modules
from segkit.cpu.process import hold_memory, prepare_process, release_memory

__all__ = [
    "hold_memory",
    "optimize_for_cpu",
    "prepare_process",
    "release_memory",
    "replace_slow_modules",
]
