"""Less thinking rather than refusals: under pressure new requests get smaller thinking budgets,
batch work first, and get them back when it is over (`docs/decisions/0013-brownout.md`).

What presses on a class of requests is `waiting.Policy`'s and `load.engine_pressure`'s to say. A
`Level` follows it, and the cap on a request follows from the level and from how long generations
with its preset usually think: a cap far above that would relieve nothing. It is a control loop with
a delay, since a cap is felt only when those who came before it have ended. It keeps steady because

- the present pressure bounds the level from both sides; nothing adds up over time;
- the level falls slower than generations last;
- only generations without a cap tell how long thinking is: caps don't lower themselves.

Pure but for the clock that `Brownout` is given.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from serve.admission import BATCH_PRIORITY, class_of
from serve.lengths import UsualLengths
from serve.settings import BrownoutSettings

RISE_S = 1.0
"""From no level to the whole."""
HYSTERESIS = 0.15
"""A level stays as long as the pressure is lower by no more than this than what raises to it."""

_CLASSES = {class_of(last): last for last in (BATCH_PRIORITY - 1, BATCH_PRIORITY)}
"""Class → the priority of the last of it that is looked at."""


class Level:
    """0: nobody is to think less; 1: everybody as little as may be. It rises where the pressure
    exceeds `start`, to the whole at `full`, within `RISE_S`, and takes `recovery_s` from 1 to 0."""

    __slots__ = ("_at_s", "_full", "_recovery_s", "_start", "value")

    def __init__(self, start: float, full: float, recovery_s: float) -> None:
        self._start, self._full = start, full
        self._recovery_s = recovery_s
        self._at_s: float | None = None
        self.value = 0.0

    def observe(self, pressure: float, now_s: float) -> float:
        """The level at `now_s`; the pressure is taken to have been the same since last time."""
        passed_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        self._at_s = now_s
        lowest, highest = self._wanted(pressure), self._wanted(pressure + HYSTERESIS)
        if self.value < lowest:
            self.value = min(lowest, self.value + passed_s / RISE_S)
        elif self.value > highest:
            self.value = max(highest, self.value - passed_s / self._recovery_s)
        return self.value

    def _wanted(self, pressure: float) -> float:
        return min(1.0, max(0.0, (pressure - self._start) / (self._full - self._start)))


def shrunk(wanted: int, usual: int | None, floor: int, level: float) -> int:
    """How many tokens one may think who would get `wanted`: from the usual length (which few
    exceed) at the lowest level to `floor` at 1, by equal factors. Never more than `wanted`."""
    if level <= 0:
        return wanted
    most = wanted if usual is None else min(wanted, usual)
    if most <= floor:
        return min(wanted, floor)
    return round(most * math.pow(floor / most, level))


class Brownout:
    """`pressure` tells what presses on requests with a priority."""

    def __init__(
        self,
        settings: BrownoutSettings,
        pressure: Callable[[int], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._pressure = pressure
        self._clock = clock
        self._lengths = UsualLengths()
        midway = (settings.start + settings.full) / 2
        self._levels = {
            name: Level(start, settings.full, settings.recovery_s)
            for name, start in zip(_CLASSES, (midway, settings.start), strict=True)
        }

    def level(self, priority: int = 0) -> float:
        """From 0 to 1, as of now, for requests with this priority."""
        return self._level(class_of(priority))

    def levels(self) -> Mapping[str, float]:
        """Of each class, by name."""
        return {name: self._level(name) for name in self._levels}

    def _level(self, name: str) -> float:
        if not self._settings.enabled:
            return 0.0
        return self._levels[name].observe(self._pressure(_CLASSES[name]), self._clock())

    def cap(self, preset: str, priority: int) -> Callable[[int], int] | None:
        """What makes of a thinking budget the one that a request gets now; None leaves it."""
        level = self.level(priority)
        if level == 0:
            return None
        usual, floor = self._lengths.usual(preset), self._settings.min_thinking_tokens
        return lambda wanted: shrunk(wanted, usual, floor, level)

    def thought(self, preset: str, num_tokens: int) -> None:
        """So long a generation thought that no brownout had capped."""
        if self._settings.enabled:
            self._lengths.add(preset, num_tokens)
