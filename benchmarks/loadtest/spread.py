"""Numbers that differ from one request to the next. Pure: randomness is passed in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random
from typing import Any

import msgspec


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Drawn anew each time: lognormal with `median` and `sigma` (of its logarithm), kept within
    `min` and `max`; without a median evenly between these."""

    median: float | None = None
    sigma: float = 0.5
    min: float = 0
    max: float | None = None

    def __post_init__(self) -> None:
        if self.median is None and self.max is None:
            raise ValueError("needs `median`, or `min` and `max`")
        if self.median is not None and self.median <= 0:
            raise ValueError(f"`median` must be above 0, got {self.median:g}")
        if self.max is not None and self.min > self.max:
            raise ValueError(f"`min` = {self.min:g} is above `max` = {self.max:g}")


Number = float | Spread


def draw(number: Number, rng: Random) -> float:
    if not isinstance(number, Spread):
        return number
    most = math.inf if number.max is None else number.max
    if number.median is None:
        return rng.uniform(number.min, most)
    value = rng.lognormvariate(math.log(number.median), number.sigma)
    return min(max(value, number.min), most)


def drawn_field(value: Any, rng: Random) -> Any:
    """A request's field: a table that is a `Spread` becomes a whole number, the rest stays."""
    if isinstance(value, Mapping) and value and set(value) <= set(Spread.__struct_fields__):
        return round(draw(msgspec.convert(value, Spread), rng))
    return value
