"""Export of networks to files for other runtimes; a file is kept only if it agrees with PyTorch.

Each format is a module with ``PRECISIONS``, ``open_session``, ``read_metadata`` and a writer.
``exported_model`` turns a file back into a network.
"""

from segkit.export.exported_model import load_exported
from segkit.export.files import FORMATS, export_atomically, is_exported, list_exported_files
from segkit.export.interfaces import ExportKind
from segkit.export.metadata import build_metadata, read_metadata

__all__ = [
    "FORMATS",
    "ExportKind",
    "build_metadata",
    "export_atomically",
    "is_exported",
    "list_exported_files",
    "load_exported",
    "read_metadata",
]
