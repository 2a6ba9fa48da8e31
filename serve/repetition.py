"""Exact repetition in a stream of token ids, found while it streams. Pure.

A small reasoning model may get caught in its own words and repeat them up to `max_tokens`. Such a
loop is here: the ids so far end in a stretch with a period p of at most `max_period` ids, at least
`min_repeats` × p and at least `min_tokens` ids long. A list that counts up or a table whose numbers
change isn't one, however alike its lines look; a short row of dots isn't either.

**Method.** Whenever the stream's length is a multiple of `check_tokens`, however it was fed, its
last W = max(min_repeats × max_period, min_tokens) + check_tokens ids are looked at. They are kept
as a string with one character per id: `str.rfind` compares whole ids, where bytes would also match
between two. A stretch of L ids has period p just when its last L - p ids stand p earlier too. So
the last max((min_repeats - 1) × p, min_tokens - min_tokens // min_repeats) ids, 72 or more by
default, must recur at p or farther back for any such period to be there. The nearest place where
they do is the candidate; comparing its stretch settles it, or the search goes on behind it, with
more ids. That gives the smallest period first.

**Cost.** Ordinary text has no candidate: a check is one search in C through `max_period` ids. All
in all 0.2 µs per id fed singly, 0.1 in sixteens (EPYC, CPython 3.11).
Hostile text can do little more. Two places d apart where the last n ids recur give those ids the
period d; that isn't a loop, so n < min_tokens or d > n / min_repeats. Hence few places match for
long, and as CPython's `rfind` compares backwards, a check compares at most about
max_period × (min_tokens + min_repeats × (1 + ln(min_repeats × max_period / min_tokens))) ids.
Candidates below min_tokens / (min_repeats - 1) are at most that many, and those above grow
geometrically. So the work is linear in the stream, whatever it says (0.5 µs per id for the worst
that was tried), and the memory is that of W + check_tokens ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class LoopLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What counts as a loop. Raises `ValueError` where a limit is too low to mean anything."""

    max_period: int = 512
    min_repeats: int = 4
    """Whole ones, the first among them."""
    min_tokens: int = 96
    """Length of the whole stretch."""
    check_tokens: int = 32
    """How late a loop may be found."""

    def __post_init__(self) -> None:
        for field, least in _LEAST.items():
            if getattr(self, field) < least:
                raise ValueError(f"{field} must be at least {least}")


_LEAST = {"max_period": 1, "min_repeats": 2, "min_tokens": 1, "check_tokens": 1}


class Loop(msgspec.Struct, frozen=True):
    """Positions count the stream's ids from 0."""

    period: int
    """The smallest one, in ids."""
    start: int
    """Where the stretch begins, as early as the period holds. Never cut off by the window: had it
    been longer than the least by `check_tokens`, the check before would have found it."""
    found_at: int
    """The stream's length at the check that found it, where the stretch ends so far."""

    @property
    def first_end(self) -> int:
        """How many ids of the stream to keep to have the pattern once."""
        return self.start + self.period


class LoopFinder:
    """Feed it one choice's ids; it finds the first loop."""

    __slots__ = ("_limits", "_num_checked", "_pending", "_window", "_window_tokens", "found")

    def __init__(self, limits: LoopLimits) -> None:
        self._limits = limits
        self._window_tokens = limits.check_tokens + max(
            limits.min_repeats * limits.max_period, limits.min_tokens
        )
        self._num_checked = 0
        self._pending: list[int] = []
        self._window = ""
        self.found: Loop | None = None

    def feed(self, ids: Sequence[int]) -> Loop | None:
        """The loop, from the feed that completes it on; later ids change nothing.

        Raises `OverflowError` for an id that isn't in 0..1,114,111, which no vocabulary has.
        """
        if self.found is None:
            self._pending.extend(ids)
            if len(self._pending) >= self._limits.check_tokens:
                self._check()
        return self.found

    def _check(self) -> None:
        """Moves the ids that are due into the window, one check after the other."""
        pending, every = self._pending, self._limits.check_tokens
        num_due = len(pending) - len(pending) % every
        for at in range(0, num_due, every):
            # In a third of the time that joining `chr`s takes.
            new = "%c" * every % tuple(pending[at : at + every])
            window = self._window = (self._window + new)[-self._window_tokens :]
            self._num_checked += every
            if period := smallest_period(window, self._limits):
                start = self._num_checked - len(window) + _start(window, period)
                self.found = Loop(period, start, self._num_checked)
                self._pending, self._window = [], ""
                return
        del pending[:num_due]


def smallest_period(ids: str, limits: LoopLimits) -> int | None:
    """Of the loop in which `ids`, a character each, end; None where they end in none."""
    repeats, shortest = limits.min_repeats, limits.min_tokens
    period = 0
    while period < limits.max_period:
        period += 1
        overlap = max((repeats - 1) * period, shortest - shortest // repeats)
        nearest = _nearest(ids, overlap, period, limits.max_period)
        if nearest is None:
            break
        period = nearest
        stretch = max(repeats * period, shortest)
        if ids[-stretch:-period] == ids[period - stretch :]:  # unequal lengths where `ids` is short
            return period
    return None


def _nearest(ids: str, num_last: int, least: int, most: int) -> int | None:
    """How far back, from `least` to `most`, the last `num_last` ids stand nearest."""
    end = len(ids)
    at = ids.rfind(ids[-num_last:], max(0, end - num_last - most), end - least)
    return None if at < 0 else end - num_last - at


def _start(ids: str, period: int) -> int:
    """Where in `ids` the stretch with that period at their end begins."""
    start = len(ids) - period
    while start > 0 and ids[start - 1] == ids[start - 1 + period]:
        start -= 1
    return start
