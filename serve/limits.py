"""What a key may use: requests at once, requests and tokens per minute. Pure: time is passed in.

Tokens are known only when a request has ended, so a bucket of tokens is charged afterwards and may
fall below zero; it refuses until it is refilled.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from serve.errors import RateLimitExceeded
from serve.shared import REQUESTS, RUNNING, TOKENS, Counters

Limit = Annotated[int, Meta(ge=1)]
BUSY_RETRY_S = 1.0
"""Told to a key that has too many requests open: when one of them ends is its own doing."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """None is no limit."""

    max_in_flight: Limit | None = None
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None


class Bucket:
    """A token bucket: holds one minute's worth, refilled evenly.

    What it held is worked out from a total that only grows, so that several workers that add up the
    same total come to the same level. Between two looks a worker can't know when the others took
    from it; looking once a second keeps what that may add to a second's refill.
    """

    __slots__ = ("_consumed", "_seen_at_s", "level", "per_minute")

    def __init__(self, per_minute: int, now_s: float, consumed: int) -> None:
        self.per_minute = per_minute
        self.level = float(per_minute)
        self._seen_at_s = now_s
        self._consumed = consumed

    def look(self, now_s: float, consumed: int) -> float:
        """The level now, when the total is `consumed`; below zero it is in debt."""
        refilled = self.level + (now_s - self._seen_at_s) * self.per_minute / 60
        self.level = min(self.per_minute, refilled - (consumed - self._consumed))
        self._seen_at_s, self._consumed = now_s, consumed
        return self.level

    def wait_s(self) -> float:
        """Until it holds at least one, from the last look on."""
        return max(0.0, 1 - self.level) * 60 / self.per_minute


class Account:
    """What one key has open and has used, held to its limits."""

    def __init__(self, name: str, limits: Limits, counters: Counters, now_s: float) -> None:
        self.name = name
        self._counters = counters
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self._limits = Limits()
        self.limit(limits, now_s)

    def limit(self, limits: Limits, now_s: float) -> None:
        """New limits; a bucket whose limit stays keeps its level."""
        old, self._limits = self._limits, limits
        if limits.requests_per_minute != old.requests_per_minute:
            self._requests = self._bucket(limits.requests_per_minute, REQUESTS, now_s)
        if limits.tokens_per_minute != old.tokens_per_minute:
            self._tokens = self._bucket(limits.tokens_per_minute, TOKENS, now_s)

    def enter(self, now_s: float) -> None:
        """One more request. Raises `RateLimitExceeded` that names the limit."""
        self._counters.add(RUNNING, 1)
        try:
            self._check(now_s)
        except RateLimitExceeded:
            self._counters.add(RUNNING, -1)
            raise
        self._counters.add(REQUESTS, 1)

    def leave(self) -> None:
        """Every request that entered leaves once."""
        self._counters.add(RUNNING, -1)

    def refund(self) -> None:
        """The request wasn't served: it doesn't count against requests per minute."""
        self._counters.add(REQUESTS, -1)

    def charge(self, num_tokens: int) -> None:
        self._counters.add(TOKENS, num_tokens)

    def look(self, now_s: float) -> None:
        """To be called about once a second where there are several workers."""
        if self._requests is not None:
            self._requests.look(now_s, self._counters.total(REQUESTS))
        if self._tokens is not None:
            self._tokens.look(now_s, self._counters.total(TOKENS))

    def headers(self, now_s: float) -> list[tuple[bytes, bytes]]:
        """OpenAI's `x-ratelimit-*`, for the limits that there are."""
        self.look(now_s)
        headers = []
        for kind, bucket in ((b"requests", self._requests), (b"tokens", self._tokens)):
            if bucket is not None:
                left = max(0, int(bucket.level))
                headers.append((b"x-ratelimit-limit-" + kind, b"%d" % bucket.per_minute))
                headers.append((b"x-ratelimit-remaining-" + kind, b"%d" % left))
        return headers

    def _bucket(self, per_minute: int | None, column: int, now_s: float) -> Bucket | None:
        if per_minute is None:
            return None
        return Bucket(per_minute, now_s, self._counters.total(column))

    def _check(self, now_s: float) -> None:
        most = self._limits.max_in_flight
        if most is not None and self._counters.total(RUNNING) > most:
            raise RateLimitExceeded(
                f"the key `{self.name}` has {most} requests open, its limit",
                reason="key_in_flight",
                retry_after_s=BUSY_RETRY_S,
            )
        self.look(now_s)
        for what, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket is not None and bucket.level < 1:
                raise RateLimitExceeded(
                    f"the key `{self.name}` has used its {bucket.per_minute} {what} per minute",
                    reason=f"key_{what}",
                    retry_after_s=bucket.wait_s(),
                )
