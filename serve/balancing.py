"""Which of the replicas that can take a request gets it: three policies. Pure: randomness is passed
in, load comes with the candidates. `docs/decisions/0007-balancing.md` has the comparison.
"""

from __future__ import annotations

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
        ranked = sorted(candidates, key=lambda it: rendezvous(affinity, it.url), reverse=True)
        return next((candidate for candidate in ranked if candidate.load < most), ranked[0])


def rendezvous(key: bytes, url: str) -> bytes:
    """The weight of a replica for a key, the same in every process."""
    return hashlib.blake2b(b"%b %b" % (url.encode(), key), digest_size=8).digest()


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
