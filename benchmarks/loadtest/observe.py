"""Looks at the server while it is under load: the engines' and the router's `/metrics`, and
`/replicas` for where the engines are. What a server doesn't offer is left out.

Samples are a second apart; counters are taken as the difference between the first and the last look
within the measured window.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import aiohttp
import msgspec

from benchmarks.loadtest.client import Endpoint
from serve.load import EngineLoad, parse_load
from serve.settings import SettingsError
from serve.strict import did_you_mean

INTERVAL_S = 1.0
TIMEOUT_S = 2.0

_COUNTER = re.compile(
    rb"^(vllm:num_preemptions_total|vllm:prefix_cache_(?:hits|queries)_total"
    rb"|r1_process_(?:cpu_seconds_total|resident_memory_bytes))(?:\{[^\n]*\})? ([0-9.eE+-]+)",
    re.M,
)
_QUEUED = re.compile(rb"^r1_queue_depth ([0-9.eE+-]+)", re.M)


class Sample(msgspec.Struct, omit_defaults=True):
    """One look, summed over the engines. `at_s` by the step's clock."""

    at_s: float
    num_running: int | None = None
    num_waiting: int | None = None
    kv_use: float | None = None
    """The fullest engine's, 0 to 1."""
    num_queued: int | None = None
    """Waiting for a place in the router."""
    counters: dict[str, float] = {}

    @property
    def has_data(self) -> bool:
        return self.num_running is not None or bool(self.counters)

    @property
    def is_busy(self) -> bool:
        return bool(self.num_running or self.num_waiting)


@dataclass(slots=True)
class Observer:
    """Of one step."""

    endpoint: Endpoint
    clock: Callable[[], float]
    samples: list[Sample] = field(default_factory=list)

    async def run(self) -> None:
        """Until cancelled."""
        async with _session() as session:
            urls = await self._pages(session)
            while True:
                self.samples.append(await self._look(session, urls))
                await asyncio.sleep(INTERVAL_S)

    async def until_idle(self) -> None:
        """Returns once nothing runs or waits on the engines; at once where that can't be seen."""
        async with _session() as session:
            urls = await self._pages(session)
            while (await self._look(session, urls)).is_busy:  # noqa: ASYNC110 - it is asked for
                await asyncio.sleep(INTERVAL_S / 4)

    async def _pages(self, session: aiohttp.ClientSession) -> list[str]:
        """Whose `/metrics` can be read: the endpoint's, and those of a router's engines."""
        urls = dict.fromkeys([self.endpoint.url, *await _engines(session, self.endpoint)])
        return [url for url in urls if await self._get(session, url)]

    async def _look(self, session: aiohttp.ClientSession, urls: Sequence[str]) -> Sample:
        """Nothing where one of them doesn't answer: the sums of the others would be too small."""
        at_s = self.clock()
        pages = await asyncio.gather(*(self._get(session, url) for url in urls))
        return sample_of(at_s, pages) if all(pages) else Sample(at_s)

    async def _get(self, session: aiohttp.ClientSession, url: str) -> bytes:
        """The key is for the endpoint alone, not for what it names as its engines."""
        key = self.endpoint.api_key if url == self.endpoint.url else None
        return await _get(session, url + "/metrics", key)


def sample_of(at_s: float, pages: Sequence[bytes]) -> Sample:
    """`pages`: the endpoint's own metrics first, then its engines'."""
    loads = [load for page in pages if (load := parse_load(page)) is not None]
    sample = Sample(at_s)
    if loads:
        sample.num_running, sample.num_waiting, sample.kv_use = _summed(loads)
    for page in pages:
        if (queued := _QUEUED.search(page)) is not None:
            sample.num_queued = round(float(queued[1]))
        for name, value in _counters(page):
            sample.counters[name] = sample.counters.get(name, 0.0) + value
    return sample


def _summed(loads: Sequence[EngineLoad]) -> tuple[int, int, float]:
    return (
        sum(load.num_running for load in loads),
        sum(load.num_waiting for load in loads),
        max(load.kv_cache_usage for load in loads),
    )


def _counters(page: bytes) -> Iterator[tuple[str, float]]:
    for match in _COUNTER.finditer(page):
        yield match[1].decode(), float(match[2])


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))


async def _get(session: aiohttp.ClientSession, url: str, key: str | None) -> bytes:
    """Nothing where there is no answer."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with session.get(url, headers=headers) as reply:
            if reply.status == 200:
                return await reply.read()
    return b""


class _Replica(msgspec.Struct):
    url: str


class _Replicas(msgspec.Struct):
    data: list[_Replica] = []


async def _engines(session: aiohttp.ClientSession, endpoint: Endpoint) -> list[str]:
    """Where a router's engines are. Those that can't be reached from here are just not seen."""
    with contextlib.suppress(msgspec.DecodeError):
        page = await _get(session, endpoint.url + "/replicas", endpoint.api_key)
        found = msgspec.json.decode(page, type=_Replicas)
        return [replica.url for replica in found.data]
    return []


class _Model(msgspec.Struct):
    id: str
    owned_by: str = ""


class _Models(msgspec.Struct):
    data: list[_Model] = []


async def served_model(endpoint: Endpoint) -> tuple[str, str]:
    """The endpoint's model, or the first where it names none, and who serves it by its own word.
    Raises `SettingsError` where it isn't served, or nothing is."""
    async with _session() as session:
        page = await _get(session, endpoint.url + "/v1/models", endpoint.api_key)
    try:
        owners = {it.id: it.owned_by for it in msgspec.json.decode(page, type=_Models).data}
    except msgspec.DecodeError:
        owners = {}
    if not owners:
        raise SettingsError(
            f"{endpoint.url}/v1/models doesn't answer as an OpenAI-compatible server does; check"
            " --url, and R1_API_KEY where it asks for a key"
        )
    model = endpoint.model or next(iter(owners))
    if model not in owners:
        hint = did_you_mean(model, owners) or f"; there are: {', '.join(list(owners)[:8])}"
        raise SettingsError(f"--model: {endpoint.url} doesn't serve {model!r}{hint}")
    return model, owners[model]


def figures_seen(
    samples: Sequence[Sample], begin_s: float, end_s: float, num_tokens: float
) -> dict[str, float]:
    """What the looks within the window tell."""
    within = [it for it in samples if begin_s <= it.at_s <= end_s and it.has_data]
    if len(within) < 2:
        return {}

    def grown(name: str) -> float:
        first, last = within[0].counters.get(name), within[-1].counters.get(name)
        if first is None or last is None or last < first:  # a restart counts anew
            return math.nan
        return last - first

    span_s = within[-1].at_s - within[0].at_s
    tokens = num_tokens * span_s / max(1e-9, end_s - begin_s)
    queries = grown("vllm:prefix_cache_queries_total")
    memory = [it.counters.get("r1_process_resident_memory_bytes", math.nan) for it in within]
    found = {
        "preemptions": grown("vllm:num_preemptions_total"),
        "prefix_hits": grown("vllm:prefix_cache_hits_total") / queries if queries else math.nan,
        "router_cpu_us_per_token": 1e6 * grown("r1_process_cpu_seconds_total") / tokens
        if tokens
        else math.nan,
        "router_memory_mib": max(memory) / 2**20,
        "kv_use": _most(it.kv_use for it in within),
        "num_running": _mean(it.num_running for it in within),
        "num_waiting": _mean(it.num_waiting for it in within),
        "num_queued": _mean(it.num_queued for it in within),
    }
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _most(values: Iterator[float | None]) -> float:
    return max((value for value in values if value is not None), default=math.nan)


def _mean(values: Iterator[int | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan
