"""What each balancing policy does to TTFT and prefix hits.

First a simulation of 100 replicas behind 8 routers (`benchmarks/fleet` says how), over kinds of
traffic; then the router's own `ReplicaSet` over 4 stand-in engines, one of them at half
the pace, with conversations of several turns. Stand-ins have no prefix cache: there, *home* is the
share of later turns that came to the engine of the turn before, and TTFT shows load alone.

Prints tables and one JSON line.

    python -m benchmarks.balancing [--seconds 20]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from benchmarks.fleet.experiments import base_world, timed
from benchmarks.fleet.outcome import Outcome
from benchmarks.fleet.world import Lengths, Traffic, World
from benchmarks.stand_in import Options, StandInEngine
from benchmarks.stats import percentile, table
from serve.balancing import (
    Balancing,
    C,
    LeastLoaded,
    Policy,
    PrefixAffinity,
    RoundRobin,
    affinity_key,
)
from serve.protocol import Message
from serve.replicas import Replica, ReplicaSet
from serve.settings import RouterSettings


class LeastOfAll:
    """Not offered by the router: what old loads do to the obvious policy."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, candidates: Sequence[C], affinity: bytes | None) -> C:
        least = min(candidate.load for candidate in candidates)
        return self._rng.choice([it for it in candidates if it.load == least])


POLICIES: dict[str, Callable[[random.Random], Policy]] = {
    "round_robin": lambda rng: RoundRobin(rng.randrange(1000)),
    "least of all": LeastOfAll,
    "least_loaded": LeastLoaded,
    "prefix_affinity": PrefixAffinity,
}
QUESTIONS = Traffic(225, thinking=Lengths(450, 0.8), answer=Lengths(150, 0.6))
CHATS = replace(QUESTIONS, conversations_per_s=45, mean_turns=5, share_with_document=0.3)
ALIKE = replace(CHATS, share_with_one_opening=0.3)


def world(traffic: Traffic) -> World:
    """No request waits in a router: what waits does so where the policy has put it."""
    return replace(
        base_world(traffic, num_replicas=100, num_seats=64),
        share_slow=0.05,
        slots_per_seat=1000,
        duration_s=240,
    )


WORLDS = {
    "chats": world(CHATS),
    "chats, busier": world(replace(CHATS, conversations_per_s=60)),
    "chats, nearly idle": world(replace(CHATS, conversations_per_s=5)),
    "single questions": world(QUESTIONS),
    "single questions, overload": world(replace(QUESTIONS, conversations_per_s=300)),
    "chats, 30 % begin alike": world(ALIKE),
}
REAL: tuple[Balancing, ...] = ("round_robin", "least_loaded", "prefix_affinity")


def simulate(
    worlds: Mapping[str, World], policies: Mapping[str, Callable[[random.Random], Policy]]
) -> dict[str, dict[str, Outcome]]:
    return {
        name: {policy: timed(it, make)[0] for policy, make in policies.items()}
        for name, it in worlds.items()
    }


# --- the real set of replicas --------------------------------------------------------------------


@dataclass(slots=True)
class Seen:
    ttft_s: list[float] = field(default_factory=list)
    per_engine: Counter[str] = field(default_factory=Counter)
    num_later: int = 0
    num_home: int = 0

    def figures(self) -> dict[str, float]:
        total = sum(self.per_engine.values())
        busiest = max(self.per_engine.values(), default=0)
        return {
            "turns": total,
            "ttft_p50_ms": 1000 * percentile(self.ttft_s, 50),
            "ttft_p99_ms": 1000 * percentile(self.ttft_s, 99),
            "home": self.num_home / max(1, self.num_later),
            "spread": busiest * len(self.per_engine) / max(1, total),
        }


async def _conversation(replicas: ReplicaSet, rng: random.Random, seen: Seen) -> None:
    """Three turns of one chat; each reply is read to its end."""
    messages: list[Message] = []
    last: Replica | None = None
    for turn in range(3):
        messages.append(Message("user", f"{rng.random()} and turn {turn}?"))
        body = {"messages": messages, "stream": True, "max_tokens": rng.randint(20, 120)}
        data = msgspec.json.encode(body)
        started_s = time.perf_counter()
        lease = await replicas.open(
            "stand-in",
            "/v1/chat/completions",
            lambda _, data=data: data,  # type: ignore[misc]
            affinity=affinity_key(messages),
        )
        with contextlib.closing(lease):
            await lease.reply.read()
            seen.ttft_s.append(time.perf_counter() - started_s)
            await lease.reply.read_all()
        seen.per_engine[lease.replica.url] += 1
        seen.num_later += turn > 0
        seen.num_home += lease.replica is last
        last = lease.replica
        messages.append(Message("assistant", "An answer."))


async def measure(policy: Balancing, seconds: float, num_clients: int = 64) -> dict[str, float]:
    """Closed loop: `num_clients` conversations at a time for `seconds`."""
    async with contextlib.AsyncExitStack() as stack:
        urls = []
        for index in range(4):
            options = Options(step_ms=20 if index == 0 else 10, prefill_ms=10, max_num_seqs=24)
            urls.append((await stack.enter_async_context(StandInEngine(options))).url)
        replicas = ReplicaSet(
            RouterSettings(engine_urls=urls, balancing=policy, probe_interval_s=0.5)
        )
        await stack.enter_async_context(replicas.running())
        while len(replicas.ready) < len(urls):  # noqa: ASYNC110 - probes have no event to wait for
            await asyncio.sleep(0.02)
        seen, rng = Seen(), random.Random(1)
        until_s = time.perf_counter() + seconds

        async def client() -> None:
            while time.perf_counter() < until_s:
                await _conversation(replicas, rng, seen)

        await asyncio.gather(*(client() for _ in range(num_clients)))
        return seen.figures()


# --- printing ------------------------------------------------------------------------------------


def _simulated(outcome: Outcome) -> dict[str, float]:
    return {
        "ttft_p50_ms": 1000 * outcome.ttft_p50_s,
        "ttft_p99_ms": 1000 * outcome.ttft_p99_s,
        "hits": outcome.prefix_hits,
        "spread": outcome.spread,
        "busy": outcome.busy,
        "turns": outcome.num_answered,
    }


def _row(name: str, figures: Mapping[str, float], share: str) -> list[str]:
    return [
        name,
        f"{figures['ttft_p50_ms']:.0f}",
        f"{figures['ttft_p99_ms']:.0f}",
        f"{100 * figures[share]:.1f} %",
        f"{figures['spread']:.2f}",
    ]


HEADER = ["", "TTFT p50 ms", "p99 ms"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.balancing", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--seconds", type=float, default=20, help="per policy over stand-ins; 0: only simulate"
    )
    seconds: float = parser.parse_args(argv).seconds
    simulated = {
        name: {policy: _simulated(outcome) for policy, outcome in by_policy.items()}
        for name, by_policy in simulate(WORLDS, POLICIES).items()
    }
    for name, by_policy in simulated.items():
        rows = [_row(policy, figures, "hits") for policy, figures in by_policy.items()]
        print(f"\nSimulated: {name}\n{table([[*HEADER, 'prefix hits', 'busiest/mean'], *rows])}")
    real = {policy: asyncio.run(measure(policy, seconds)) for policy in REAL if seconds > 0}
    if real:
        rows = [_row(name, figures, "home") for name, figures in real.items()]
        print(f"\n4 stand-ins, one slow\n{table([[*HEADER, 'home', 'busiest/mean'], *rows])}")
    print(json.dumps({"simulated": simulated, "real": real}))


if __name__ == "__main__":
    main()
