"""The policies, over plain candidates."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.balancing import (
    SLACK,
    LeastLoaded,
    Policy,
    PrefixAffinity,
    RoundRobin,
    affinity_key,
    make_policy,
)
from serve.protocol import Message


@dataclass
class Engine:
    url: str
    load: int = 0


def engines(*loads: int) -> list[Engine]:
    return [Engine(f"http://engine-{i}:8000", load) for i, load in enumerate(loads)]


def keys(count: int) -> list[bytes]:
    return [i.to_bytes(8, "big") for i in range(count)]


@pytest.mark.parametrize("name", ["least_loaded", "round_robin", "prefix_affinity"])
def test_every_policy_takes_what_there_is(name: str) -> None:
    """One candidate, key or not."""
    policy = make_policy(name, random.Random(1))  # type: ignore[arg-type]
    only = engines(7)
    assert policy.choose(only, None) is only[0]
    assert policy.choose(only, b"k") is only[0]


def test_of_two_the_less_loaded() -> None:
    policy = LeastLoaded(random.Random(1))
    pair = engines(3, 2)
    assert all(policy.choose(pair, None) is pair[1] for _ in range(50))


def test_the_most_loaded_of_many_never_gets_more() -> None:
    policy = LeastLoaded(random.Random(1))
    many = engines(9, 1, 2, 3, 4)
    chosen = Counter(policy.choose(many, None).url for _ in range(500))
    assert many[0].url not in chosen
    assert len(chosen) > 2, "and not all run to the least loaded"


def test_ties_are_spread() -> None:
    policy = LeastLoaded(random.Random(1))
    chosen = Counter(policy.choose(engines(0, 0, 0, 0), None).url for _ in range(400))
    assert min(chosen.values()) > 60


def test_round_robin_takes_each_in_turn() -> None:
    policy = RoundRobin()
    three = engines(5, 0, 0)
    assert [policy.choose(three, None) for _ in range(6)] == three * 2


def test_a_conversation_stays_where_it_is() -> None:
    policy = PrefixAffinity(random.Random(1))
    four = engines(1, 1, 1, 1)
    for key in keys(20):
        assert len({policy.choose(four, key).url for _ in range(5)}) == 1


def test_conversations_are_spread_evenly() -> None:
    policy = PrefixAffinity(random.Random(1), bound=1000)
    chosen = Counter(policy.choose(engines(0, 0, 0, 0), key).url for key in keys(4000))
    assert min(chosen.values()) > 800


def test_the_conversations_of_a_busy_replica_are_spread_over_all_others() -> None:
    """The next in rank is another one for each conversation: chi-squared of 8 shares, 7 degrees of
    freedom, below its 0.999 quantile."""
    policy = PrefixAffinity(random.Random(1), bound=1000)
    nine = engines(*[0] * 9)
    homes = {key: policy.choose(nine, key) for key in keys(9000)}
    ours = [key for key, home in homes.items() if home is nine[0]]
    chosen = Counter(policy.choose(nine[1:], key).url for key in ours)
    even = len(ours) / 8
    assert len(ours) > 800
    assert sum((chosen[it.url] - even) ** 2 / even for it in nine[1:]) < 24.3


def test_a_replica_that_goes_moves_only_its_own_conversations() -> None:
    policy = PrefixAffinity(random.Random(1), bound=1000)
    five = engines(0, 0, 0, 0, 0)
    before = {key: policy.choose(five, key).url for key in keys(500)}
    after = {key: policy.choose(five[1:], key).url for key in keys(500)}
    moved = {key for key in before if before[key] != after[key]}
    assert moved == {key for key in before if before[key] == five[0].url}


def test_a_busy_replica_passes_a_conversation_on_to_the_next_in_rank() -> None:
    """Always the same next one, so that its prefix is there the next time."""
    policy = PrefixAffinity(random.Random(1))
    four = engines(8, 8, 8, 8)
    home = policy.choose(four, b"key")
    home.load = 30
    second = policy.choose(four, b"key")
    assert second is not home
    rest = [engine for engine in four if engine is not home]
    assert policy.choose(rest, b"key") is second


@given(st.lists(st.integers(0, 300), min_size=2, max_size=20), st.binary(max_size=16))
def test_affinity_never_overloads(loads: list[int], key: bytes) -> None:
    """The choice had less than 1.25 times the mean, or 4 more than it, this request counted."""
    chosen = PrefixAffinity(random.Random(1)).choose(engines(*loads), key)
    mean = (sum(loads) + 1) / len(loads)
    assert chosen.load < max(1.25 * mean + 1, mean + SLACK)


def test_a_nearly_idle_set_keeps_conversations_where_they_are() -> None:
    """A few requests more than the mean are no reason to read a prompt again."""
    policy = PrefixAffinity(random.Random(1))
    four = engines(0, 0, 0, 0)
    home = policy.choose(four, b"key")
    home.load = SLACK
    assert policy.choose(four, b"key") is home


def test_without_a_key_affinity_goes_by_load() -> None:
    policy: Policy = PrefixAffinity(random.Random(1))
    pair = engines(5, 0)
    assert all(policy.choose(pair, None) is pair[1] for _ in range(20))


CHAT = [
    Message("system", "Be brief."),
    Message("user", "What is 2 + 2?"),
    Message("assistant", "4"),
    Message("user", "And 3 + 3?"),
]


def test_all_turns_of_a_conversation_have_one_key() -> None:
    """Another opening is another conversation."""
    other = [CHAT[0], Message("user", "What is 2 + 3?")]
    assert affinity_key(CHAT[:2]) == affinity_key(CHAT)
    assert affinity_key(other) != affinity_key(CHAT)
    assert affinity_key(CHAT[1:]) != affinity_key(CHAT)
    assert affinity_key([]) == affinity_key([])


def test_the_key_is_the_same_in_every_process() -> None:
    code = (
        "from serve.balancing import affinity_key; from serve.protocol import Message; "
        "print(affinity_key([Message('user', 'What is 2 + 2?')]).hex())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == affinity_key([Message("user", "What is 2 + 2?")]).hex()


TEXTS = st.none() | st.text("aé😀\ud800")


@given(st.lists(st.builds(Message, st.sampled_from(["system", "user"]), TEXTS)))
def test_any_messages_have_a_key(messages: list[Message]) -> None:
    assert len(affinity_key(messages)) == 16
