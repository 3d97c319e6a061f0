"""Settings: what may be said, checked against the signatures it is for, before anything is imported."""

from segkit.settings.declared import COMMANDS, CONF, SECTIONS
from segkit.settings.schema import check
from segkit.settings.signatures import read_keywords
from segkit.settings.values import (
    Device,
    Fraction,
    FractionBelowOne,
    Gibibytes,
    NonNegativeFloat,
    NonNegativeInt,
    PathStr,
    PositiveFloat,
    PositiveInt,
    Range,
    Side,
    Size,
)

__all__ = [
    "COMMANDS",
    "CONF",
    "SECTIONS",
    "Device",
    "Fraction",
    "FractionBelowOne",
    "Gibibytes",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PathStr",
    "PositiveFloat",
    "PositiveInt",
    "Range",
    "Side",
    "Size",
    "check",
    "read_keywords",
]
