"""Whether one replica may be given work: a state machine fed with events. Pure: time is passed in.

Two things decide. *Reachable*: probes get an answer; a failed connection ends that at once, and
the next good probe restores it. *Outcomes*: several requests in a row that failed by the replica's
fault eject it although its probes are good (vLLM's `/health` knows little); after a while, doubling
each time, it is half-open: one request at a time is let through, and its outcome decides.
"""

from __future__ import annotations

import enum
import math

MAX_BAD_OUTCOMES = 5
"""In a row."""
FIRST_EJECTION_S = 2.0
LONGEST_EJECTION_S = 60.0
FORGIVEN_AFTER_S = 120.0
"""In rotation for this long, the next ejection is a first one again."""


class State(enum.Enum):
    UNKNOWN = "unknown"
    """Not reached yet, or not any more."""
    READY = "ready"
    EJECTED = "ejected"
    HALF_OPEN = "half-open"
    DRAINING = "draining"
    """Open streams go on, nothing new comes."""


class Health:
    """Events in, state out. An outcome that began before the last ejection or loss says nothing
    about the replica now and is ignored: `begin` gives the epoch that `ended` wants back."""

    def __init__(self) -> None:
        self._reachable = False
        self._draining = False
        self._epoch = 0
        self._num_bad = 0
        self._on_trial = False
        self._ejected_until_s: float | None = None
        self._next_ejection_s = FIRST_EJECTION_S
        self._in_rotation_since_s = -math.inf

    def state(self, now_s: float) -> State:
        if self._draining:
            return State.DRAINING
        if not self._reachable:
            return State.UNKNOWN
        if self._ejected_until_s is None:
            return State.READY
        return State.EJECTED if now_s < self._ejected_until_s else State.HALF_OPEN

    def takes_work(self, now_s: float) -> bool:
        """Whether a request may be sent now; half-open, one at a time."""
        state = self.state(now_s)
        return state is State.READY or (state is State.HALF_OPEN and not self._on_trial)

    def reached(self) -> None:
        """A probe was good."""
        self._reachable = True

    def lost(self) -> None:
        """A probe was bad or a connection failed: whatever answers next is to be judged afresh."""
        if self._reachable:
            self._reset()
        self._reachable = False
        self._ejected_until_s = None

    def drain(self) -> None:
        self._draining = True

    def rejoin(self) -> None:
        """It stays after all; what was found out meanwhile holds."""
        self._draining = False

    def begin(self, now_s: float) -> int:
        """A request is sent."""
        if self.state(now_s) is State.HALF_OPEN:
            self._on_trial = True
        return self._epoch

    def ended(self, epoch: int, good: bool | None, now_s: float) -> bool:
        """A request that began in `epoch` has ended; None where it tells nothing (the client left,
        the request was at fault). Returns whether the replica should be ejected for it."""
        if epoch != self._epoch:
            return False
        on_trial, self._on_trial = self._on_trial, False
        if good is None:
            return False
        if good:
            self._num_bad = 0
            self._trust(now_s)
            return False
        self._num_bad += 1
        return on_trial or self._num_bad >= MAX_BAD_OUTCOMES

    def trial_progressed(self, now_s: float) -> None:
        """The trial's stream moves: enough, since a stream may last for minutes."""
        if self._on_trial:
            self._on_trial = False
            self._trust(now_s)

    def eject(self, now_s: float) -> None:
        """Out of rotation for a while, longer each time."""
        if self._ejected_until_s is None and now_s - self._in_rotation_since_s >= FORGIVEN_AFTER_S:
            self._next_ejection_s = FIRST_EJECTION_S
        self._reset()
        self._ejected_until_s = now_s + self._next_ejection_s
        self._next_ejection_s = min(2 * self._next_ejection_s, LONGEST_EJECTION_S)

    def _reset(self) -> None:
        self._epoch += 1
        self._num_bad = 0
        self._on_trial = False

    def _trust(self, now_s: float) -> None:
        if self._ejected_until_s is not None:
            self._ejected_until_s = None
            self._in_rotation_since_s = now_s


class StallWatch:
    """Notices an engine that has work and does none: no byte of any stream and no movement of its
    own counters for `timeout_s`.

    One check adds at most a quarter of the time-out, so that a router which was itself suspended
    doesn't blame its engines.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._silent_s = 0.0
        self._checked_at_s: float | None = None

    def progressed(self) -> None:
        self._silent_s = 0.0

    def stalled(self, now_s: float, num_awaited: int) -> bool:
        """To be called now and then with the replies that the engine owes; True once the silence
        has lasted too long."""
        last_s = now_s if self._checked_at_s is None else self._checked_at_s
        self._checked_at_s = now_s
        if not num_awaited:
            self._silent_s = 0.0
            return False
        self._silent_s += min(now_s - last_s, self.timeout_s / 4)
        return self._silent_s >= self.timeout_s
