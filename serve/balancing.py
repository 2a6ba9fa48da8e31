"""Which of the replicas that can take a request gets it: three policies. Pure: randomness is passed
in, load comes with the candidates. `docs/decisions/0007-balancing.md` has the comparison.
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol, TypeVar

from serve.protocol import Message

Balancing = Literal["least_loaded", "round_robin", "prefix_affinity"]

BOUND = 1.25
"""A replica takes at most this times the mean load for the sake of a prefix (consistent hashing
with bounded loads, Mirrokni et al. 2016)."""
SLACK = 4
"""Or this many requests more than the mean: an engine that runs 5 sequences instead of 1 hardly
notices, while reading a prompt again costs."""
OPENING_CHARACTERS = 2048
"""Of each text that goes into an affinity key."""

_SPREAD = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: Fibonacci hashing (Knuth, The Art of Computer Programming, 6.4)."""
_MASK = (1 << 64) - 1


class Candidate(Protocol):
    @property
    def url(self) -> str: ...

    @property
    def load(self) -> int:
        """Requests running or waiting there, as far as is known."""


C = TypeVar("C", bound=Candidate)


class Policy(Protocol):
    def choose(self, candidates: Sequence[C], affinity: bytes | None) -> C:
        """One of `candidates`, which are at least one."""


class LeastLoaded:
    """The less loaded of two taken at random. The least of all would be better if loads were known
    exactly; they are seconds old, and several routers would all run to the same replica."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, candidates: Sequence[C], affinity: bytes | None) -> C:
        if len(candidates) == 1:
            return candidates[0]
        one, other = self._rng.sample(candidates, 2)
        return one if one.load <= other.load else other


class RoundRobin:
    """Each in turn."""

    def __init__(self, start: int = 0) -> None:
        self._next = start

    def choose(self, candidates: Sequence[C], affinity: bytes | None) -> C:
        self._next += 1
        return candidates[(self._next - 1) % len(candidates)]


class PrefixAffinity:
    """All turns of a conversation to the replica that holds their prefix: rendezvous hashing, so
    that a replica that comes or goes moves only its own share, the next in rank where the first is
    too busy. Without a key, as `LeastLoaded`."""

    def __init__(self, rng: random.Random, bound: float = BOUND) -> None:
        self._bound = bound
        self._fallback = LeastLoaded(rng)

    def choose(self, candidates: Sequence[C], affinity: bytes | None) -> C:
        if affinity is None or len(candidates) == 1:
            return self._fallback.choose(candidates, None)
        mean = (sum(candidate.load for candidate in candidates) + 1) / len(candidates)
        most = max(math.ceil(self._bound * mean), mean + SLACK)
        weights = rendezvous(affinity, [candidate.url for candidate in candidates])
        home = candidates[weights.index(max(weights))]
        if home.load < most:  # nearly always, and sorting a thousand takes as long as the rest
            return home
        ranked = sorted(range(len(weights)), key=weights.__getitem__, reverse=True)
        return next((candidates[at] for at in ranked if candidates[at].load < most), home)


def rendezvous(key: bytes, urls: Iterable[str]) -> list[int]:
    """The weight of each replica for a key, the same in every process. A hash of both together
    would take four times as long, which tells with a thousand replicas; over hashed keys and
    addresses one multiplication spreads as evenly."""
    place = _place(key)
    return [(_place_of(url) ^ place) * _SPREAD & _MASK for url in urls]


def _place(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


@functools.lru_cache(maxsize=1 << 16)
def _place_of(url: str) -> int:
    return _place(url.encode())


def make_policy(name: Balancing, rng: random.Random) -> Policy:
    if name == "round_robin":
        return RoundRobin()
    return LeastLoaded(rng) if name == "least_loaded" else PrefixAffinity(rng)


def affinity_key(messages: Iterable[Message]) -> bytes:
    """What all turns of one conversation share and few others do: its system texts and its first
    user turn, 16 bytes of hash. The contents are plain text (`parse_chat`)."""
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        text = message.content if isinstance(message.content, str) else ""
        digest.update(text[:OPENING_CHARACTERS].encode("utf-8", "replace"))
        digest.update(b"\0")
        if message.role == "user":
            break
    return digest.digest()
