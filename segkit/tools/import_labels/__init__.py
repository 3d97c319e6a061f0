"""Files of other label tools as folders to train on; a class table proposed from masks."""

from segkit.tools.import_labels.conversion import Report, format_csv, import_labels
from segkit.tools.import_labels.readers import READERS

__all__ = ["READERS", "Report", "format_csv", "import_labels"]
