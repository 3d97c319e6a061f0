"""Exported networks: files that other runtimes run, written only when they say what PyTorch says.

One module a format, with ``Session``, ``metadata`` and what writes it; ``deployed`` makes a file a network.
"""

from segkit.export.deployed import is_exported, load_exported
from segkit.export.files import FORMATS, export_atomically, export_path, exported_files
from segkit.export.interfaces import ExportKind, make_export_network

__all__ = [
    "FORMATS",
    "ExportKind",
    "export_atomically",
    "export_path",
    "exported_files",
    "is_exported",
    "load_exported",
    "make_export_network",
]
