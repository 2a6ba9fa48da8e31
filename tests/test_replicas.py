"""The set of replicas over stand-ins: retries, ejections, stuck engines, comings and goings."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.stand_in import Fault, Options, StandInEngine
from serve.describe import EngineInfo
from serve.errors import EngineRejected, NotReady, UpstreamError, UpstreamTimeout
from serve.health import MAX_BAD_OUTCOMES, State
from serve.replicas import Lease, Replica, ReplicaSet
from serve.settings import RouterSettings
from tests.support import eventually, running_router

PATH = "/v1/chat/completions"
FAST = Options(step_ms=0.5, prefill_ms=0)
LONG = Options(step_ms=5, prefill_ms=0, think_tokens=5000)


def body(**fields: Any) -> Callable[[object], bytes]:
    """A streaming chat."""
    data = {"messages": [{"role": "user", "content": "hi"}], "stream": True, **fields}
    return lambda _: msgspec.json.encode(data)


@contextlib.asynccontextmanager
async def replicas_over(*engines: StandInEngine, **settings: Any) -> AsyncIterator[ReplicaSet]:
    """A set that has found all of them ready; nothing may be in flight in the end."""
    urls = [engine.url for engine in engines]
    replicas = ReplicaSet(RouterSettings(engine_urls=urls, probe_interval_s=0.02, **settings))
    async with replicas.running():
        await eventually(lambda: len(replicas.ready) == len(engines))
        yield replicas
        assert all(it.num_in_flight == 0 for it in (*replicas.replicas, *replicas.leaving))


@contextlib.asynccontextmanager
async def stand_ins(
    count: int, options: Options | None = None
) -> AsyncIterator[list[StandInEngine]]:
    async with contextlib.AsyncExitStack() as stack:
        fast = Options(step_ms=0.5, prefill_ms=0)
        yield [
            await stack.enter_async_context(StandInEngine(options or fast)) for _ in range(count)
        ]


async def post(replica: Replica, info: EngineInfo, message: bytes) -> Lease:
    """An accepted call at this replica, whatever the set would choose."""
    lease = Lease(replica, info)
    await lease.send(PATH, message, None)
    return lease


async def open_one(replicas: ReplicaSet, **fields: Any) -> Lease:
    return await replicas.open("stand-in", PATH, body(**fields))


async def serve_one(replicas: ReplicaSet, max_tokens: int = 8) -> Replica:
    """A whole reply; who made it."""
    lease = await open_one(replicas, max_tokens=max_tokens)
    with contextlib.closing(lease):
        await lease.reply.read_all()
    return lease.replica


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_what_is_the_replicas_fault_goes_elsewhere(status: int) -> None:
    async with (
        stand_ins(2) as engines,
        replicas_over(*engines, balancing="round_robin") as replicas,
    ):
        bad, good = engines
        bad.arm(Fault("status", status=status))
        for _ in range(4):
            assert (await serve_one(replicas)).url == good.url
        assert set(replicas.num_retries) == {"busy" if status == 503 else "gateway"}


async def test_an_engine_that_stops_loses_no_request_and_comes_back() -> None:
    """vLLM answers 500 in words of its own while it drains; `/health` stays good."""
    async with stand_ins(2) as engines, replicas_over(*engines) as replicas:
        stopping, other = engines
        stopping.draining = True
        for _ in range(20):
            assert (await serve_one(replicas)).url == other.url
        assert replicas.num_retries["stopping"] <= 1, "it is out at the first such answer"
        stopping.draining = False
        await eventually(lambda: len(replicas.ready) == 2)


@pytest.mark.parametrize(("status", "kind"), [(500, UpstreamError), (400, EngineRejected)])
async def test_what_may_be_the_requests_fault_is_not_tried_again(status: int, kind: type) -> None:
    async with stand_ins(2) as engines, replicas_over(*engines) as replicas:
        before = [engine.counters.num_requests for engine in engines]
        for engine in engines:
            engine.arm(Fault("status", status=status))
        with pytest.raises(kind):
            await open_one(replicas)
        after = [engine.counters.num_requests for engine in engines]
        assert sum(after) - sum(before) == 1


async def raw_server(
    answer: Callable[[asyncio.StreamWriter], Awaitable[None]],
) -> tuple[asyncio.Server, str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await answer(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def break_off(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def force_ready(replicas: ReplicaSet, url: str, like: Replica) -> Replica:
    """As if a probe had just found it good."""
    replica = next(it for it in replicas.replicas if it.url == url)
    replica.info = like.info
    replica.health.reached()
    return replica


async def test_a_connection_that_breaks_before_the_reply_goes_elsewhere() -> None:
    server, url = await raw_server(break_off)
    async with server, stand_ins(1) as engines:
        replicas = ReplicaSet(RouterSettings(engine_urls=[url, engines[0].url]))
        async with replicas.running():
            good = replicas.replicas[1]
            await eventually(lambda: good.ready)
            for _ in range(4):
                force_ready(replicas, url, good)
                assert (await serve_one(replicas)).url == good.url


async def test_alone_a_replica_gets_a_second_chance_only_after_a_broken_connection() -> None:
    """Who is busy now will be so a moment later."""
    num_calls = 0

    async def count_and_break_off(writer: asyncio.StreamWriter) -> None:
        nonlocal num_calls
        num_calls += 1
        await break_off(writer)

    server, url = await raw_server(count_and_break_off)
    async with server, stand_ins(1) as engines, replicas_over(*engines) as like:
        replicas = ReplicaSet(RouterSettings(engine_urls=[url]))
        force_ready(replicas, url, like.replicas[0])
        with pytest.raises(UpstreamError):
            await open_one(replicas)
        assert num_calls == 3
        engines[0].arm(Fault("status", status=503))
        before = engines[0].counters.num_requests
        with pytest.raises(NotReady):
            await open_one(like)
        assert engines[0].counters.num_requests == before + 1


async def test_three_attempts_are_the_most() -> None:
    """The last error is what the client gets, with its Retry-After."""
    async with stand_ins(5) as engines, replicas_over(*engines) as replicas:
        before = sum(engine.counters.num_requests for engine in engines)
        for engine in engines:
            engine.arm(Fault("status", status=503))
        with pytest.raises(NotReady) as failure:
            await open_one(replicas)
        assert failure.value.headers()["retry-after"]
        assert sum(engine.counters.num_requests for engine in engines) - before == 3


async def test_dead_replicas_cost_no_attempt() -> None:
    """Four of five are gone and no probe has seen it: the fifth serves."""
    async with stand_ins(5) as engines, replicas_over(*engines) as replicas:
        for engine in engines[:4]:
            await engine.stop()
        for _ in range(5):
            assert (await serve_one(replicas)).url == engines[4].url


async def test_retries_end_with_their_budget() -> None:
    async with stand_ins(2) as engines, replicas_over(*engines) as replicas:
        while replicas.may_retry():
            pass
        engines[0].arm(Fault("status", status=503))
        engines[1].arm(Fault("status", status=503))
        before = sum(engine.counters.num_requests for engine in engines)
        with pytest.raises(NotReady):
            await open_one(replicas)
        assert sum(engine.counters.num_requests for engine in engines) - before == 1


async def test_a_replica_that_only_fails_is_ejected_and_tried_again_later() -> None:
    """Its probes are good all the time; one good trial is enough."""
    async with stand_ins(2) as engines, replicas_over(*engines) as replicas:
        bad = replicas.replicas[0]
        engines[0].arm(Fault("close", after=2))
        now_s = asyncio.get_running_loop().time
        until_s = now_s() + 10
        while bad.ready and now_s() < until_s:
            with contextlib.suppress(UpstreamError):
                await serve_one(replicas)
        assert not bad.ready
        assert bad.num_ejections == {"failures": 1}
        for _ in range(10):
            if not bad.ready:  # a slow machine may be at the trial already
                await serve_one(replicas)
        engines[0].arm(None)
        await eventually(lambda: bad.ready)
        until_s = now_s() + 10
        state = State.HALF_OPEN
        while state is not State.READY and now_s() < until_s:
            await serve_one(replicas)
            state = bad.health.state(now_s())
        assert state is State.READY


async def test_what_the_caller_calls_a_failure_counts_as_one() -> None:
    """Such as an error event in a stream that ends well."""
    async with stand_ins(2) as engines, replicas_over(*engines) as replicas:
        bad = replicas.replicas[0]
        for _ in range(MAX_BAD_OUTCOMES):
            info = bad.info
            assert info is not None
            lease = await post(bad, info, body(max_tokens=2)(None))
            await lease.reply.read_all()
            lease.failed(UpstreamError("an error event"))
            lease.close()
            lease.close()
        assert not bad.ready


async def test_a_client_that_leaves_is_no_fault_of_the_replica() -> None:
    async with stand_ins(2, LONG) as engines, replicas_over(*engines) as replicas:
        for _ in range(4 * MAX_BAD_OUTCOMES):
            lease = await open_one(replicas)
            lease.close()
        task = asyncio.create_task(open_one(replicas))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(replicas.ready) == 2


async def test_failures_everywhere_leave_half_of_the_replicas_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request that breaks every engine it meets must not take the service down."""
    monkeypatch.setattr("serve.health.FIRST_EJECTION_S", 60.0)
    async with stand_ins(4) as engines, replicas_over(*engines) as replicas:
        for engine in engines:
            engine.arm(Fault("close", after=2))
        for _ in range(100):
            with contextlib.suppress(UpstreamError):
                await serve_one(replicas)
        assert len(replicas.ready) == 2


async def test_a_stuck_engine_is_noticed_and_its_streams_fail() -> None:
    """Health is 200 and connections are open; nothing comes and its counters stand still, however
    many requests still arrive. It is back once it can generate again."""
    async with (
        stand_ins(2, LONG) as engines,
        replicas_over(*engines, stall_timeout_s=0.3) as replicas,
    ):
        stuck, info = replicas.replicas[0], replicas.replicas[0].info
        assert info is not None
        leases = [await post(stuck, info, body()(None)) for _ in range(2)]
        await leases[0].reply.read()
        engines[0].wedge()

        async def keep_coming() -> None:
            while stuck.ready:
                leases.append(await post(stuck, info, body()(None)))
                await asyncio.sleep(0.05)

        await asyncio.wait_for(keep_coming(), 10)
        assert stuck.num_ejections == {"stalled": 1}
        for lease in leases:
            with pytest.raises(UpstreamTimeout, match="stuck"):
                await lease.reply.read_all()
            lease.close()
        await serve_until_cut(replicas, engines[1].url)
        engines[0].wedge(False)
        await eventually(lambda: len(replicas.ready) == 2)


async def serve_until_cut(replicas: ReplicaSet, url: str) -> None:
    lease = await open_one(replicas)
    assert lease.replica.url == url
    await lease.reply.read()
    lease.close()


async def test_an_engine_whose_metrics_are_gone_too_is_stuck() -> None:
    """All that was open when the machine behind it went silent."""
    async with (
        stand_ins(1, LONG) as engines,
        replicas_over(*engines, stall_timeout_s=0.3) as replicas,
    ):
        lease = await open_one(replicas)
        await lease.reply.read()
        engines[0].handle = lambda *_: None  # type: ignore[method-assign]
        engines[0].wedge()
        with pytest.raises(UpstreamTimeout):
            await lease.reply.read_all()
        lease.close()
        assert not replicas.ready


@pytest.mark.parametrize("readable", [True, False])
async def test_an_engine_that_works_is_not_stuck(readable: bool) -> None:
    """Streams that move, with and without metrics."""
    async with (
        stand_ins(1, Options(step_ms=5, prefill_ms=0)) as engines,
        replicas_over(*engines, stall_timeout_s=0.2) as replicas,
    ):
        if not readable:
            engines[0].metrics = lambda: "nothing"  # type: ignore[method-assign]
        await serve_one(replicas, max_tokens=120)
        assert not replicas.replicas[0].num_ejections


async def test_a_long_prefill_is_not_a_stall() -> None:
    """No byte comes for several time-outs, but the cache fills."""
    async with (
        stand_ins(1, Options(step_ms=1, prefill_ms=1000)) as engines,
        replicas_over(*engines, stall_timeout_s=0.25) as replicas,
    ):
        await serve_one(replicas, max_tokens=3)
        assert not replicas.replicas[0].num_ejections


async def test_a_slow_client_is_not_a_stall() -> None:
    """Its reply isn't read, or is complete and not yet passed on: the engine owes nothing."""
    async with (
        stand_ins(1, LONG) as engines,
        replicas_over(*engines, stall_timeout_s=0.2) as replicas,
    ):
        done, slow = await open_one(replicas, max_tokens=2), await open_one(replicas)
        await eventually(lambda: replicas.replicas[0].client.num_awaited == 1)
        slow.reply.pause()
        engines[0].wedge()
        await asyncio.sleep(0.6)
        assert not replicas.replicas[0].num_ejections
        done.close()
        slow.close()


async def test_a_slow_client_does_not_hide_a_stall() -> None:
    async with (
        stand_ins(1, LONG) as engines,
        replicas_over(*engines, stall_timeout_s=0.2) as replicas,
    ):
        read, slow = await open_one(replicas), await open_one(replicas)
        slow.reply.pause()
        engines[0].wedge()
        with pytest.raises(UpstreamTimeout):
            await read.reply.read_all()
        read.close()
        slow.close()


async def test_other_routers_load_is_seen() -> None:
    """What the engine runs beyond our own requests counts in the choice."""
    async with (
        stand_ins(2, LONG) as engines,
        replicas_over(*engines) as ours,
        replicas_over(*engines) as others,
    ):
        busy = others.replicas[0]
        info = busy.info
        assert info is not None
        leases = [await post(busy, info, body()(None)) for _ in range(5)]
        await eventually(lambda: ours.replicas[0].load == 5)
        assert busy.load == 5, "its own requests are not counted twice"
        for _ in range(4):
            lease = await open_one(ours)
            assert lease.replica.url == engines[1].url
            leases.append(lease)
        for lease in leases:
            lease.close()
        await eventually(lambda: ours.replicas[0].load == 0)


async def test_replicas_below_their_limit_come_first() -> None:
    """With affinity too; where all are full, admission decides, not the choice."""
    async with (
        stand_ins(2, LONG) as engines,
        replicas_over(*engines, max_in_flight_per_replica=2, balancing="round_robin") as replicas,
    ):
        assert replicas.capacity == 4
        leases = [await open_one(replicas) for _ in range(4)]
        assert [it.num_in_flight for it in replicas.replicas] == [2, 2]
        leases.append(await open_one(replicas))
        for lease in leases:
            lease.close()


async def test_avoided_replicas_come_last() -> None:
    async with stand_ins(2) as engines, replicas_over(*engines) as replicas:
        one, two = replicas.replicas
        for _ in range(5):
            assert replicas.choose("stand-in", {one})[0] is two
        assert replicas.choose("stand-in", {one, two})[0] in (one, two)


async def test_a_conversation_stays_on_its_replica() -> None:
    async with (
        stand_ins(3) as engines,
        replicas_over(*engines, balancing="prefix_affinity") as replicas,
    ):
        used = {replicas.choose("stand-in", affinity=b"conversation")[0] for _ in range(20)}
        assert len(used) == 1


async def test_a_replica_that_leaves_ends_its_streams_in_peace() -> None:
    """It takes no new work at once; after the last stream its connections and tasks are gone."""
    before = len(asyncio.all_tasks())
    async with stand_ins(2, LONG) as engines, replicas_over(*engines) as replicas:
        leaving, staying = replicas.replicas
        info = leaving.info
        assert info is not None
        lease = await post(leaving, info, body(max_tokens=50)(None))
        replicas.update([staying.url])
        assert replicas.choose("stand-in")[0] is staying
        assert replicas.leaving == [leaving]
        assert (await lease.reply.read_all()).rstrip().endswith(b"data: [DONE]")
        assert replicas.leaving == [leaving]
        lease.close()
        await eventually(lambda: not replicas.leaving)
        await eventually(lambda: leaving.client.num_connections == 0)
        await eventually(lambda: not engines[0].connections)
        replicas.update([staying.url, leaving.url])
        assert replicas.replicas[0] is staying
        await eventually(lambda: len(replicas.ready) == 2)
    await eventually(lambda: len(asyncio.all_tasks()) == before)


async def test_a_replica_that_is_named_again_goes_on_where_it_was() -> None:
    """Name servers with caches of their own tell the old set and the new in turns."""
    async with stand_ins(2, LONG) as engines, replicas_over(*engines) as replicas:
        one, two = replicas.replicas
        info = one.info
        assert info is not None
        lease = await post(one, info, body(max_tokens=50)(None))
        for _ in range(3):
            replicas.update([two.url])
            assert replicas.ready == [two]
            replicas.update([one.url, two.url])
            assert replicas.ready == [one, two]
            assert not replicas.leaving
            assert one.num_in_flight == 1
        assert (await lease.reply.read_all()).rstrip().endswith(b"data: [DONE]")
        lease.close()


async def test_the_last_ready_replica_stays_until_its_successor_is_ready() -> None:
    """Not one request is refused where a name's only address is replaced by another."""
    async with stand_ins(2) as engines:
        old, new = engines
        await new.stop()
        async with replicas_over(old) as replicas:
            replicas.update([new.url])
            assert [it.url for it in replicas.replicas] == [new.url, old.url]
            await serve_one(replicas)
            await new.start()
            while len(replicas.replicas) > 1:
                await serve_one(replicas)
            assert (await serve_one(replicas)).url == new.url
            await eventually(lambda: not replicas.leaving)


async def test_a_replica_that_is_out_leaves_at_once() -> None:
    """And where nothing is named any more, the ready ones do too."""
    async with stand_ins(2) as engines, replicas_over(*engines) as replicas:
        await engines[0].stop()
        await eventually(lambda: len(replicas.ready) == 1)
        replicas.update(["http://127.0.0.1:9"])
        assert [it.url for it in replicas.replicas] == ["http://127.0.0.1:9", engines[1].url]
        replicas.update([])
        assert not replicas.replicas


async def test_the_router_follows_a_file_of_engines(tmp_path: Path) -> None:
    """Engines are added and removed under way; series of the removed go away."""
    path = tmp_path / "engines"
    async with stand_ins(2) as engines:
        one, two = engines
        path.write_text(one.url)
        async with running_router(engine_file=str(path), wait_ready=False) as router:
            replicas = router.router.replicas
            await eventually(lambda: len(replicas.ready) == 1)
            path.write_text(f"{one.url}\n{two.url}\n")
            await eventually(lambda: len(replicas.ready) == 2)
            path.write_text(two.url)
            await eventually(lambda: [it.url for it in replicas.ready] == [two.url])
            assert (await router.chat("hi")).status_code == 200
            await eventually(lambda: not replicas.leaving)
            metrics = (await router.http.get("/metrics")).text
    assert f'r1_replica_up{{replica="{two.url}"}} 1.0' in metrics
    assert f'r1_replica_in_flight{{replica="{two.url}"}} 0.0' in metrics
    assert one.url not in metrics
    assert "r1_replicas 1.0" in metrics
    assert "r1_replicas_ready 1.0" in metrics


async def test_the_router_follows_a_name() -> None:
    async with stand_ins(1) as engines:
        url = f"http://localhost:{engines[0].port}"
        async with running_router(engine_dns=url, wait_ready=False) as router:
            await eventually(lambda: len(router.router.replicas.ready) == 1)
            assert router.router.replicas.ready[0].url == engines[0].url
            assert (await router.chat("hi")).status_code == 200


async def test_ejections_and_retries_are_counted() -> None:
    async with stand_ins(2) as engines, running_router(*(it.url for it in engines)) as router:
        engines[0].draining = True
        for number in range(20):
            assert (await router.chat(f"hi {number}", max_tokens=8)).status_code == 200
        metrics = (await router.http.get("/metrics")).text
        label = f'reason="stopping",replica="{engines[0].url}"'
        assert f"r1_replica_ejections_total{{{label}}} 1.0" in metrics
        assert 'r1_retries_total{reason="stopping"} 1.0' in metrics


async def test_a_port_where_nobody_listens_is_just_not_ready() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        replicas = ReplicaSet(RouterSettings(engine_urls=[url]))
        async with replicas.running():
            await eventually(lambda: "no connection" in replicas.replicas[0].last_error)
            with pytest.raises(NotReady, match="no connection"):
                await open_one(replicas)


async def test_replicas_are_told(tmp_path: Path) -> None:
    """`GET /replicas`: what runs where, and why one is out."""
    nobody = "http://127.0.0.1:9"
    stuck = Options(step_ms=0, prefill_ms=0, think_tokens=50, fault=Fault("stall", after=2))
    async with (
        StandInEngine(stuck) as engine,
        running_router(engine.url, nobody, wait_ready=False) as router,
    ):
        await eventually(lambda: len(router.router.replicas.ready) == 1)
        call = asyncio.create_task(router.chat())

        async def told() -> list[dict[str, Any]]:
            return list((await router.http.get("/replicas")).json()["data"])

        async def runs() -> bool:
            first, _ = await told()
            return first["running"] == 1

        await eventually(runs)
        first, second = await told()
        assert first.pop("kv_cache_usage") >= 0
        assert first == {
            "url": engine.url,
            "object": "replica",
            "ready": True,
            "state": "ready",
            "model": "stand-in",
            "in_flight": 1,
            "running": 1,
            "waiting": 0,
            "ejections": {},
            "last_error": None,
        }
        assert (second["ready"], second["state"], second["running"]) == (False, "unknown", None)
        assert nobody in second["last_error"]
        call.cancel()
