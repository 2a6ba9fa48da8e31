"""Draining: over the stand-in engine in this process, and of a real `r1-serve router`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator

import httpx
import pytest

from benchmarks.stand_in import Options, StandInEngine
from serve.server import LAST_CALL_S, ServerError, listen
from serve.settings import ServerSettings
from tests.conftest import Program
from tests.support import RunningRouter, eventually, running_router

STALL = {"think": 5, "answer": "never", "fault": {"kind": "stall", "after": 3}}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def script(**values: object) -> str:
    return "script:" + json.dumps(values)


@contextlib.asynccontextmanager
async def stalled(
    drain_timeout_s: float, *, stream: bool
) -> AsyncIterator[tuple[RunningRouter, asyncio.Task[httpx.Response]]]:
    """A router with one reply that doesn't come to its end."""
    server = ServerSettings(port=0, drain_timeout_s=drain_timeout_s)
    async with (
        StandInEngine(Options(step_ms=1)) as engine,
        running_router(engine.url, server=server) as router,
    ):
        reply = asyncio.create_task(router.chat(script(**STALL), stream=stream))
        await eventually(lambda: engine.generation_tokens >= 3)
        yield router, reply
        await eventually(lambda: not engine.running)


async def test_a_draining_router_answers_on_new_connections_and_sends_new_work_away() -> None:
    """While a stream goes on: not ready, alive, measurable; a chat gets 503 and when to come back;
    every connection is closed after its reply."""
    async with StandInEngine(Options(step_ms=5)) as engine, running_router(engine.url) as router:
        stream = asyncio.create_task(router.chat(script(think=40, answer="end"), stream=True))
        await eventually(lambda: len(engine.running) == 1)
        engine.wedge()
        assert (await router.http.get("/ready")).status_code == 200
        router.drain()
        async with httpx.AsyncClient(base_url=router.url) as other:
            await eventually_ready(other, 503)
            ready = await other.get("/ready")
            chat = await other.post("/v1/chat/completions", json=CHAT)
            alive = [await other.get("/health"), await other.get("/metrics")]
        for refused in (ready, chat):
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "shutting_down"
            assert int(refused.headers["retry-after"]) >= 1
        assert [reply.status_code for reply in alive] == [200, 200]
        assert {reply.headers["connection"] for reply in (ready, chat, *alive)} == {"close"}
        assert 'outcome="unavailable"' in alive[1].text
        assert not stream.done()
        engine.wedge(False)
        assert (await stream).text.endswith("data: [DONE]\n\n")


async def eventually_ready(client: httpx.AsyncClient, status: int = 200) -> None:
    """Returns once `/ready` answers with `status`."""

    async def ready() -> bool:
        return (await client.get("/ready")).status_code == status

    await eventually(ready)


@pytest.mark.parametrize(
    ("drain_timeout_s", "status"), [(60.0, 200), (0.0, 503)], ids=["in time", "too late"]
)
async def test_a_client_that_asks_again_after_its_stream_is_served_once_more(
    drain_timeout_s: float, status: int
) -> None:
    """The stream's head went out before the drain, so the client takes its connection for one that
    lives on. Late in the drain, when its reply might be cut, it is sent elsewhere."""
    limits = httpx.Limits(max_connections=1)
    server = ServerSettings(port=0, drain_timeout_s=drain_timeout_s)
    async with (
        StandInEngine(Options(step_ms=5)) as engine,
        running_router(engine.url, server=server) as router,
        httpx.AsyncClient(base_url=router.url, limits=limits) as client,
    ):
        body = {"messages": [{"role": "user", "content": script(think=40, answer="end")}]}
        async with client.stream(
            "POST", "/v1/chat/completions", json=body | {"stream": True}
        ) as stream:
            router.drain()
            [_ async for _ in stream.aiter_text()]
        assert "connection" not in stream.headers
        again = await client.post("/v1/chat/completions", json=CHAT)
        assert again.status_code == status
        assert again.headers["connection"] == "close"


async def test_at_the_drains_limit_a_stream_ends_with_an_error_event() -> None:
    """Not a cut connection: the event is OpenAI's error and the body is complete. Nor is it counted
    among those that were refused."""
    async with stalled(0.2, stream=True) as (router, reply):
        router.drain()
        events = (await reply).text.strip().split("\n\n")
        metrics = router.router.telemetry.exposition().decode()
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert len(events) > 1
        assert 'r1_rejections_total{reason="shutting_down"} 0.0' in metrics


async def test_at_the_drains_limit_a_whole_reply_becomes_a_503() -> None:
    async with stalled(0.2, stream=False) as (router, reply):
        router.drain()
        response = await reply
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "shutting_down"
        assert "retry-after" in response.headers


async def test_a_body_that_does_not_come_is_given_up_at_the_drains_limit() -> None:
    """A client that sends half of its request gets the 503 as well, and holds nobody up."""
    server = ServerSettings(port=0, drain_timeout_s=0.2)
    async with (
        StandInEngine(Options(step_ms=1)) as engine,
        running_router(engine.url, server=server) as router,
    ):
        host, _, port = router.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
        writer.write(b"content-length: 100\r\n\r\n{")
        await eventually(lambda: "read_body" in running_code())
        router.drain()
        reply = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b"shutting_down" in reply


async def test_a_request_that_has_begun_to_come_is_answered() -> None:
    """However slowly: its client can't know of the drain."""
    server = ServerSettings(port=0, drain_timeout_s=600)
    async with (
        StandInEngine(Options(step_ms=1)) as engine,
        running_router(engine.url, server=server) as router,
        asyncio.timeout(20),
    ):
        host, _, port = router.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps(CHAT).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
        await asyncio.sleep(LAST_CALL_S)
        router.drain()
        await asyncio.sleep(0)
        writer.write(b"content-length: %d\r\n\r\n" % len(body) + body)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()


def running_code() -> set[str]:
    """The names of all coroutines that wait in this loop."""
    names = set()
    for task in asyncio.all_tasks():
        waits_in: object = task.get_coro()
        while waits_in is not None:
            names.add(getattr(waits_in, "__name__", ""))
            waits_in = getattr(waits_in, "cr_await", None)
    return names


async def test_asking_again_cuts_the_drain_short() -> None:
    """A second cancel doesn't wait for the limit; the stream still gets its error event."""
    async with stalled(600, stream=True) as (router, reply):
        router.drain()
        async with httpx.AsyncClient(base_url=router.url) as other:
            await eventually_ready(other, 503)
        router.drain()
        assert "shutting_down" in (await asyncio.wait_for(reply, 20)).text


async def test_idle_connections_do_not_hold_a_drain() -> None:
    """One kept alive after a reply, one that never asked: the end comes at once."""
    server = ServerSettings(port=0, drain_timeout_s=600)
    async with (
        StandInEngine(Options(step_ms=1)) as engine,
        running_router(engine.url, server=server) as router,
    ):
        await router.http.get("/health")
        host, _, port = router.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        router.drain()
        async with asyncio.timeout(20):
            assert await reader.read() == b""
            while await accepts(host, int(port)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        writer.close()


async def test_refused_clients_do_not_hold_a_drain() -> None:
    """There is always one that has just come, or is just being refused; the end comes all the same
    when the last reply has ended."""
    server = ServerSettings(port=0, drain_timeout_s=600)
    async with (
        StandInEngine(Options(step_ms=1)) as engine,
        running_router(engine.url, server=server) as router,
        asyncio.timeout(20),
    ):
        stream = asyncio.create_task(router.chat(script(think=5, answer="end"), stream=True))
        await eventually(lambda: len(engine.running) == 1)
        engine.wedge()
        router.drain()
        async with httpx.AsyncClient(base_url=router.url) as other:
            await eventually_ready(other, 503)
        host, _, port = router.url.removeprefix("http://").partition(":")
        body = json.dumps(CHAT).encode()
        num_refused = 0

        async def ask_again_and_again(pause_s: float) -> None:
            nonlocal num_refused
            with contextlib.suppress(ConnectionError):  # the port is closed at last
                while True:
                    reader, writer = await asyncio.open_connection(host, int(port))
                    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
                    writer.write(b"content-length: %d\r\n\r\n" % len(body))
                    await asyncio.sleep(pause_s)
                    writer.write(body)
                    reply = await reader.read()
                    num_refused += b"shutting_down" in reply
                    writer.close()

        async with asyncio.TaskGroup() as clients:
            for number in range(10):
                clients.create_task(ask_again_and_again(0.03 + number / 100))
            await eventually(lambda: num_refused >= 10)
            engine.wedge(False)
        assert (await stream).text.endswith("data: [DONE]\n\n")


async def accepts(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


def test_a_shared_port_is_shared_only_with_those_who_say_so() -> None:
    """Two may listen with `shared`; a third without it is told that the port is taken."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.closing(listen("127.0.0.1", 0, shared=True)))
        port = first.getsockname()[1]
        stack.enter_context(contextlib.closing(listen("127.0.0.1", port, shared=True)))
        with pytest.raises(ServerError, match=f"127.0.0.1:{port}: Address already in use"):
            listen("127.0.0.1", port)


async def test_sigterm_under_load_cuts_no_stream() -> None:
    """A real process with 20 streams open: every one reaches its end, `/ready` says 503 on a new
    connection meanwhile, a new chat is sent away, and the exit status is 0."""
    async with StandInEngine(Options(step_ms=5)) as engine:
        program = await asyncio.to_thread(
            Program, "router", "--engine-url", engine.url, "--port", "0"
        )
        try:
            line = await asyncio.to_thread(program.wait_for, "Serving ", 20)
            url = next(word for word in line.split() if word.startswith("http://"))
            async with httpx.AsyncClient(base_url=url, timeout=60) as http:
                await eventually_ready(http)
                body = CHAT | {"stream": True, "max_tokens": 400}
                body["messages"] = [{"role": "user", "content": script(think=300, answer="end")}]
                engine.wedge()
                streams = [
                    asyncio.create_task(http.post("/v1/chat/completions", json=body))
                    for _ in range(20)
                ]
                await eventually(lambda: len(engine.running) == 20)
                engine.wedge(False)
                await eventually(lambda: engine.generation_tokens > 40)
                engine.wedge()
                os.kill(program.process.pid, signal.SIGTERM)
                async with httpx.AsyncClient(base_url=url) as other:
                    await eventually_ready(other, 503)
                    refused = await other.post("/v1/chat/completions", json=CHAT)
                assert refused.status_code == 503
                assert refused.headers["connection"] == "close"
                assert "retry-after" in refused.headers
                engine.wedge(False)
                replies = await asyncio.gather(*streams)
            assert all(reply.text.endswith("data: [DONE]\n\n") for reply in replies)
            assert await asyncio.to_thread(program.process.wait, 20) == 0
        finally:
            await asyncio.to_thread(program.close)
