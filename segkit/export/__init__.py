"""Exported networks: files that other runtimes run, written only when they say what PyTorch says.

One module a format, with ``Session``, ``metadata`` and what writes it; ``deployed`` makes a file a network.
"""

from segkit.export.deployed import is_exported, load_exported
from segkit.export.files import FORMATS, choose_export_path, export_atomically, list_exported_files
from segkit.export.interfaces import ExportKind, make_export_network

__all__ = [
    "FORMATS",
    "ExportKind",
    "choose_export_path",
    "export_atomically",
    "is_exported",
    "list_exported_files",
    "load_exported",
    "make_export_network",
]
