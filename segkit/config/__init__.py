"""Settings: composed from yaml files and the command line, and checked against signatures."""

from segkit.config.checking import check
from segkit.config.schema import CONF
from segkit.config.values import (
    Fraction,
    FractionBelowOne,
    Gibibytes,
    Interval,
    NonNegativeFloat,
    NonNegativeInt,
    PathStr,
    PositiveFloat,
    PositiveInt,
    Side,
    Size,
)

__all__ = [
    "CONF",
    "Fraction",
    "FractionBelowOne",
    "Gibibytes",
    "Interval",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PathStr",
    "PositiveFloat",
    "PositiveInt",
    "Side",
    "Size",
    "check",
]
