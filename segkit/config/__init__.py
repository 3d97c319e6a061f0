"""Settings: what may be said, checked against the signatures it is for, before anything is imported."""

from segkit.config.declared import COMMANDS, CONF, SECTIONS
from segkit.config.schema import check
from segkit.config.signatures import read_keywords
from segkit.config.values import (
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
