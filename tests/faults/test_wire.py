"""Bytes of every kind, in pieces of every size: from an engine, and from a client.

Each test keeps one router over one engine; hypothesis sends example after example through it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.stand_in import Options
from serve.connection import Connection
from serve.errors import UpstreamError
from serve.protocol import ChatRequest
from tests.faults.support import (
    ANSWER,
    CHAT,
    FAST,
    SSE,
    TRACE,
    PlayedEngine,
    chat_body,
    chunk,
    exchange,
    faultless_after,
    parse_reply,
    recorded,
    request_bytes,
    sending,
)
from tests.support import RunningRouter, eventually

Run = Callable[[Awaitable[Any]], Any]
BOUNDED = settings(
    max_examples=60,
    derandomize=True,  # the same bytes in every run: a failure is the change's, not chance's
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs a coroutine in this test's loop, for at most 20 s."""
    with asyncio.Runner() as runner:
        yield lambda work: runner.run(asyncio.wait_for(work, 20))


@pytest.fixture(params=["split"])
def over_engine(
    run: Run, request: pytest.FixtureRequest
) -> Iterator[tuple[PlayedEngine, RunningRouter]]:
    async def begin() -> tuple[AsyncIterator[Any], Any]:
        pairs = router_over_engine(request.param)
        return pairs, await anext(pairs)

    pairs, pair = run(begin())
    yield pair

    async def end() -> None:
        assert await anext(pairs, None) is None

    run(end())


async def router_over_engine(mode: Any) -> AsyncIterator[tuple[PlayedEngine, RunningRouter]]:
    async with (
        PlayedEngine(Options(mode=mode, **FAST)) as engine,
        faultless_after(engine, idle_timeout_s=10) as router,
    ):
        yield engine, router


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False) if a < b]


# --- the engine's bytes in any pieces -----------------------------------------------------------


class FakeTransport(asyncio.Transport):
    """Takes what is written; closes at once."""

    def __init__(self) -> None:
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """A request goes nowhere."""

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        """Nothing comes but what the test feeds."""

    def resume_reading(self) -> None:
        """See `pause_reading`."""


class Owner:
    num_released = 0

    def released(self, connection: Connection) -> None:
        self.num_released += 1

    def lost(self, connection: Connection) -> None:
        """Nothing to do."""


async def received(parts: list[bytes]) -> tuple[bytes, int]:
    """The body that a connection makes of a reply in `parts`, each a read of its own, and how often
    it was given back. Raises as `Reply.read_all`."""
    owner = Owner()
    connection = Connection(owner, asyncio.get_running_loop())
    connection.connection_made(FakeTransport())
    reply = connection.send(b"GET / HTTP/1.1")
    for part in parts:
        connection.data_received(part)
    connection.connection_lost(None)
    return await reply.read_all(), owner.num_released


bodies = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=40),
        st.text("0123456789abcdef\r\n", min_size=1, max_size=40).map(str.encode),
    ),
    max_size=12,
)
framed = bodies.map(lambda parts: b"".join(map(chunk, parts)))
cuts = st.lists(st.integers(0, 10_000), max_size=30)


@settings(max_examples=400)
@given(bodies, cuts)
def test_a_chunked_body_is_the_same_in_any_pieces(parts: list[bytes], cuts: list[int]) -> None:
    """Bodies that look like framing themselves, cut inside the framing too."""
    reply = SSE + b"".join(map(chunk, parts)) + b"0\r\n\r\n"
    assert asyncio.run(received(pieces(reply, cuts))) == (b"".join(parts), 1)


@pytest.mark.parametrize("size", [0x15, 0x105])
def test_a_chunks_size_may_be_cut_in_two(size: int) -> None:
    """`1` and then `5` CR LF and what looks like a chunk of five: still one of twenty-one."""
    body = b"HELLO\r\n".ljust(size, b"x")
    parts = [chunk(b"a"), b"%x" % (size >> 4), b"5\r\nHELLO\r\n", b"x" * (size - 7) + b"\r\n"]
    reply = [SSE, *parts, b"0\r\n\r\n"]
    assert asyncio.run(received(reply)) == (b"a" + body, 1)


@settings(max_examples=400)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60), st.just(SSE), bodies.map(lambda p: b"".join(map(chunk, p)))
        ),
        max_size=8,
    )
)
def test_no_bytes_raise_anything_but_upstream_errors(parts: list[bytes]) -> None:
    """In the event loop's callback or out of it."""

    async def feed() -> None:
        try:
            await received(parts)
        except UpstreamError:
            return

    asyncio.run(feed())


@pytest.mark.parametrize("over_engine", ["split", "raw"], indirect=True)
def test_a_real_stream_is_the_same_in_any_pieces(
    run: Run, over_engine: tuple[PlayedEngine, RunningRouter]
) -> None:
    """Headers, framing, events, tags and characters, cut anywhere."""
    engine, router = over_engine
    reply = run(recorded(mode=engine.options.mode))

    @BOUNDED
    @given(cuts)
    def check(cuts: list[int]) -> None:
        engine.play = sending(*pieces(reply, cuts))
        message = run(router.chat()).json()["choices"][0]["message"]
        assert (message["reasoning"], message["content"]) == (TRACE, ANSWER)

    check()
    engine.play = None


# --- nonsense from an engine --------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
deltas = st.dictionaries(
    st.sampled_from(["role", "content", "reasoning", "reasoning_content", "tool_calls"]),
    json_values,
    max_size=3,
)
choices = st.fixed_dictionaries(
    {},
    optional={
        "index": st.just(0) | json_values,
        "delta": deltas | json_values,
        "finish_reason": json_values,
        "stop_reason": json_values,
        "logprobs": json_values,
        "token_ids": st.lists(st.integers(-1, 2**33), max_size=3) | json_values,
    },
)
events = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(choices, max_size=3) | json_values,
        "usage": st.dictionaries(
            st.sampled_from(["prompt_tokens", "completion_tokens", "prompt_tokens_details"]),
            json_values,
        )
        | json_values,
        "error": json_values,
        "prompt_token_ids": st.lists(st.integers(-1, 2**33), max_size=3) | json_values,
    },
)
nonsense = st.one_of(
    st.lists(
        st.one_of(
            events.map(lambda event: b"data: " + json.dumps(event).encode() + b"\n\n"),
            st.just(b"data: [DONE]\n\n"),
            st.binary(max_size=30),
        ),
        max_size=6,
    ).map(lambda parts: SSE + b"".join(chunk(part) for part in parts if part) + b"0\r\n\r\n"),
    st.binary(max_size=200),
)


def test_whatever_an_engine_answers_ends_in_a_reply_or_a_clear_error(
    run: Run, over_engine: tuple[PlayedEngine, RunningRouter]
) -> None:
    """Nonsense in valid framing, or bytes that are nothing: never our own failure nor a hang."""
    engine, router = over_engine

    @BOUNDED
    @given(nonsense, st.booleans(), st.sampled_from([CHAT, "/v1/completions"]))
    def check(reply: bytes, stream: bool, path: str) -> None:
        run(eventually(lambda: bool(router.router.replicas.ready)))
        engine.play = sending(reply, then="close")
        body = chat_body("hi", stream=stream) if path == CHAT else {"prompt": "a", "stream": stream}
        response = run(router.http.post(path, json=body))
        assert "internal_error" not in response.text
        assert response.status_code in (200, 502, 503, 504)
        engine.play = None

    check()


# --- nonsense from a client ---------------------------------------------------------------------

known = st.sampled_from(sorted({*ChatRequest.__struct_fields__, "prompt", "echo", "suffix"}))
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]) | json_values},
    optional={"content": st.text() | json_values, "name": json_values, "tool_calls": json_values},
)
asked = st.dictionaries(known, json_values, max_size=4).flatmap(
    lambda fields: st.lists(messages, min_size=1, max_size=3).map(
        lambda said: {"messages": said} | fields
    )
)


def test_whatever_a_client_sends_is_never_our_failure(
    run: Run, over_engine: tuple[PlayedEngine, RunningRouter]
) -> None:
    """Any JSON, any bytes: a reply or a 4xx in OpenAI's shape."""
    _, router = over_engine

    @BOUNDED
    @given(
        st.one_of(
            st.binary(max_size=200),
            json_values.map(lambda value: json.dumps(value).encode()),
            asked.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
        ),
        st.sampled_from([CHAT, "/v1/completions", "/tokenize"]),
    )
    def check(body: bytes, path: str) -> None:
        reply = parse_reply(run(exchange(router.url, request_bytes(body, path=path))))
        assert reply.status < 500, reply.body
        if reply.status >= 400:
            assert reply.error.keys() == {"message", "type", "param", "code"}
        else:
            assert b"internal_error" not in reply.body

    check()


def test_whatever_comes_for_http_is_answered_or_dropped(
    run: Run, over_engine: tuple[PlayedEngine, RunningRouter]
) -> None:
    """Bytes where a request was expected, and requests with bytes in their heads."""
    _, router = over_engine
    whole = request_bytes()

    @BOUNDED
    @given(st.binary(min_size=1, max_size=100), st.integers(0, 90), st.booleans())
    def check(noise: bytes, at: int, alone: bool) -> None:
        data = noise if alone else whole[:at] + noise + whole[at:]
        raw = run(exchange_and_leave(router.url, data))
        assert not raw or raw.startswith((b"HTTP/1.1 2", b"HTTP/1.1 3", b"HTTP/1.1 4")), raw[:200]

    check()
    assert run(router.chat("hi")).status_code == 200


async def exchange_and_leave(url: str, data: bytes) -> bytes:
    """What comes at once: half a request gets no answer."""
    try:
        return await exchange(url, data, within_s=0.1)
    except TimeoutError:
        return b""
