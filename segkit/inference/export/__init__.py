"""Exported networks: files that other runtimes run, written only when they say what PyTorch says.

One module a format, with ``Session``, ``metadata`` and what writes it; ``deployed`` makes a file a network.
"""

from segkit.inference.export.deployed import is_exported, load_exported
from segkit.inference.export.files import FORMATS, export_atomically, parts, target
from segkit.inference.export.interfaces import Kind, network_for

__all__ = [
    "FORMATS",
    "Kind",
    "export_atomically",
    "is_exported",
    "load_exported",
    "network_for",
    "parts",
    "target",
]
