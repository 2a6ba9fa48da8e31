"""A figure over several repeats: its mean and how far the truth may be from it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import msgspec

_T_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""Student's t, two-sided 95 %, by degrees of freedom from 1 on; beyond them nearly the normal's."""
_NORMAL_95 = 1.96


MIN_REPEATS = 3
"""Of two repeats the interval is so wide (12.7 standard errors) that it says nothing."""


class Estimate(msgspec.Struct, frozen=True):
    """`margin`: half the width of the 95 % confidence interval; None of too few repeats."""

    mean: float
    margin: float | None = None

    @property
    def low(self) -> float:
        return self.mean - (self.margin or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.margin or 0.0)


def estimate(values: Sequence[float]) -> Estimate:
    """Of one figure's values, one a repeat."""
    if len(values) < MIN_REPEATS:
        return Estimate(fmean(values))
    degrees = len(values) - 1
    t = _T_95[degrees - 1] if degrees <= len(_T_95) else _NORMAL_95
    return Estimate(fmean(values), t * stdev(values) / math.sqrt(len(values)))
