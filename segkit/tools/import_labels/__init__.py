"""Convert files of label tools to training data, and propose class tables for masks."""

from segkit.tools.import_labels.conversion import import_labels
from segkit.tools.import_labels.readers import READERS

__all__ = ["READERS", "import_labels"]
