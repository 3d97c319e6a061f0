"""Files of other label tools as folders to train on; a class table proposed from masks."""

from segkit.data.importing.conversion import Report, format_csv, import_labels
from segkit.data.importing.readers import READERS

__all__ = ["READERS", "Report", "format_csv", "import_labels"]
