"""The arithmetic of a comparison: percentiles, medians over rounds, paired ratios. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median


def percentile(values: Sequence[float], percent: float) -> float:
    """The `percent`-th percentile (0-100), interpolated linearly; NaN without values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    at = (len(ordered) - 1) * percent / 100
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def median_of(values: Sequence[float]) -> float:
    """The median of the values that are numbers; NaN without any."""
    known = [value for value in values if not math.isnan(value)]
    return median(known) if known else math.nan


def paired_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """The median over rounds of value/base: what the machine did in a round cancels out."""
    pairs = zip(values, base, strict=True)
    return median_of([value / at if at else math.nan for value, at in pairs])


def paired_difference(values: Sequence[float], base: Sequence[float]) -> float:
    """The median over rounds of value - base."""
    return median_of([value - at for value, at in zip(values, base, strict=True)])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows under a header as aligned text: first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)


def without_nan(value: object, num_digits: int | None = None) -> object:
    """What is to be kept as JSON, which has no NaN: null where nothing could be measured. Numbers
    to so many digits, if that is asked."""
    if isinstance(value, dict):
        return {str(key): without_nan(item, num_digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item, num_digits) for item in value]
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return None
    return value if num_digits is None else float(f"{value:.{num_digits}g}")
