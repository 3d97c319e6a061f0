"""Files of other label tools as folders to train on; a class table proposed from masks."""

from segkit.data.importing.conversion import READERS, Import, csv_of

__all__ = ["READERS", "Import", "csv_of"]
