"""Speed and memory on CPUs, applied to a finished model from outside.

``optimize_for_cpu(model)`` does what concerns the network, ``prepare_process()`` and ``hold_memory()`` what
concerns the process; a training calls them (``runtime.optimize_cpu``). The models know nothing of it, and
results differ in rounding only. A trick that gains less than 3 % in both time and memory is not here.

Measured on an AMD EPYC (AVX-512), torch 2.15: a training step of DeepLabV3-ResNeSt-50, batch 2, crop 256,
float32; processor time of one thread and peak of the process. ``docs/speed.md`` compares with others.

===========================  =======================  ==================================================
trick                        time of a step           memory
===========================  =======================  ==================================================
``recompute``                6 % more                 11 % less (1,642 of 1,846 MiB); half at 4 x 480
``dilated``                  11 % less                same
``split_attention``          5 % less                 2 % less
``image_pooling`` (bf16)     12 % of ASPP's less      same
``skip_compiler_import``     1.5 s less at the start  154 MiB less, 10 %
``hold_memory`` (bf16)       1 % less                 4 % less (1,361 of 1,417 MiB)
===========================  =======================  ==================================================
"""

from segkit.cpu.optimize import optimize_for_cpu
from segkit.cpu.process import hold_memory, prepare_process, release_memory

__all__ = ["hold_memory", "optimize_for_cpu", "prepare_process", "release_memory"]
