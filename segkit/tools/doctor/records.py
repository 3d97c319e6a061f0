"""Numbers of one image and its mask, which the checks of the doctor compare."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from segkit.tools.doctor.findings import Key


class Agreement(NamedTuple):
    """Agreement of one mask with its image."""

    near: float  # at offset zero, and one pixel around it
    best: float  # highest over all offsets
    offset: tuple[int, int]  # of the highest, (y, x) in pixels of the image: where the borders should be
    mirrored: float  # of the mirrored mask, near offset zero
    middle: float  # median over all offsets


class Record(NamedTuple):
    """Numbers of one image and its mask."""

    key: Key
    name: str
    size: tuple[int, int]  # height, width
    dtype: str
    values: tuple[float, float, float, float]  # least, most, mean, standard deviation over all bands
    is_gray: bool
    descriptor: np.ndarray  # of ``copies.describe_image``
    image_digest: bytes  # of the pixels
    mask_digest: bytes  # of the class ids
    classes: int  # that occur in the mask
    labeled: float  # fraction of the pixels that are not ignored
    agreement: Agreement | None  # None: too few borders
