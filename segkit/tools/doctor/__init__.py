"""Find what is wrong with a data set: copies, leaks, masks that do not fit, hopeless classes, wrong labels.

``examine_dataset`` writes one page with pictures and one JSON file.
"""

from segkit.tools.doctor.examination import examine_dataset

__all__ = ["examine_dataset"]
