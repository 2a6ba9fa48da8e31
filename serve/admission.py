"""Who may run now. One gate over all generations: a slot each, or a refusal at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from serve.errors import TooManyRequests

RETRY_AFTER_S = 1.0


class Gate:
    """Counts running generations up to `max_in_flight`."""

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self.num_in_flight = 0

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Holds a slot for the body of the `with`. Raises `TooManyRequests`."""
        if self.num_in_flight >= self._max_in_flight:
            raise TooManyRequests(
                f"{self.num_in_flight} requests are running, the limit of this server; "
                "try again shortly",
                retry_after_s=RETRY_AFTER_S,
            )
        self.num_in_flight += 1
        try:
            yield
        finally:
            self.num_in_flight -= 1
