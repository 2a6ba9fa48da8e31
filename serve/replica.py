"""One engine as the router sees it: what it serves, how it is, how busy, and the calls it has.

What to make of events is `serve.health`'s; which replica gets a request is `serve.replicas`'.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from serve.connection import ConnectFailed
from serve.describe import EngineInfo, describe, expect_ok
from serve.engine_reply import Reply
from serve.errors import ServeError, UpstreamError, UpstreamTimeout
from serve.health import Health, StallWatch, State
from serve.legs import Leg
from serve.load import EngineLoad, parse_load
from serve.settings import RouterSettings
from serve.upstream import EngineClient, EngineStopping, is_clients_fault, refusal
from serve.wire import UNREADABLE

log = logging.getLogger(__name__)

UNREADY_PROBE_INTERVAL_S = 0.5
EJECTIONS = ("failures", "failed trial", "stalled", "stopping")
"""Why a replica is taken out though its probes are good."""


class Taker(Protocol):
    """Who takes the body of a call's reply as it arrives."""

    def hold(self, lease: Lease) -> None:
        """The call that is about to be sent. Where it fails another one may follow, as long as
        nothing has been taken."""

    def take(self, data: bytes) -> bool:
        """As `engine_reply.Sink`."""


class Lease:
    """One call at one replica, in flight until `close()`; `reply` is open, its status 200."""

    __slots__ = (
        "_accepted",
        "_epoch",
        "_failed",
        "_open",
        "_paused",
        "_reply",
        "info",
        "leg",
        "replica",
    )

    def __init__(self, replica: Replica, info: EngineInfo, leg: Leg | None = None) -> None:
        self.replica = replica
        self.info = info
        self.leg = leg
        """What is told of the call."""
        self._reply: Reply | None = None
        self._accepted = False
        self._failed = False
        self._open = True
        self._paused = False
        self._epoch = replica.began()

    @property
    def reply(self) -> Reply:
        if self._reply is None:
            raise RuntimeError("the call has no reply yet")
        return self._reply

    @property
    def accepted(self) -> bool:
        """Whether the engine has begun to answer: `send` has returned, or a taker has got some."""
        return self._accepted or (self._reply is not None and self._reply.taken)

    async def send(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None,
        taker: Taker | None = None,
    ) -> None:
        """Returns once the engine has accepted the call (status 200) and, where there is a `taker`,
        this one has all that it wants. Raises `ServeError`, also where the engine refuses, and what
        the taker raises; nothing is left running then."""
        sink = None if taker is None else taker.take
        if self.leg is not None and self.leg.headers:
            headers = {**(headers or {}), **self.leg.headers}
        try:
            reply = await self.replica.client.request(
                "POST", path, body, headers, sink=sink, hold=self._hold
            )
            if reply.status != 200:
                raise refusal(reply.status, await reply.read_all())
            self._accepted = True
        except BaseException as exc:
            self._note_end(exc)
            self._end(self.replica.judge(exc))
            raise
        if taker is not None:
            self._note_end()

    def failed(self, error: Exception) -> None:
        """The stream broke by the replica's fault, as its reader understood: an error event, or
        bytes that made no sense. What the connection itself saw needs no telling."""
        self._failed = True
        self._note_end(error)
        self.replica.last_error = str(error)

    def pause(self) -> None:
        """The reader can't keep up: the engine is to wait."""
        self._paused = True
        if self._reply is not None:
            self._reply.pause()

    def resume(self) -> None:
        self._paused = False
        if self._reply is not None:
            self._reply.resume()

    def close(self) -> None:
        """Ends the call, on the engine too where its reply is unfinished. May be called again."""
        if self._open:
            self._end(False if self._failed else self.reply.ended_well)

    def _hold(self, reply: Reply) -> None:
        self._reply = reply
        if self._paused:
            reply.pause()

    def _note_end(self, error: BaseException | None = None) -> None:
        if self.leg is not None:
            self.leg.end(error)

    def _end(self, good: bool | None) -> None:
        self._open = False
        self._note_end()
        if self._reply is not None:
            self._reply.close()
        self.replica.ended(self._epoch, good)


class Replica:
    """`may_eject` says whether the others can do without it."""

    def __init__(
        self, url: str, settings: RouterSettings, may_eject: Callable[[], bool] = lambda: True
    ) -> None:
        self.url = url
        self.client = self._new_client(settings)
        self.health = Health()
        self.info: EngineInfo | None = None
        self.engine_load: EngineLoad | None = None
        self.num_in_flight = 0
        self.num_ejections: Counter[str] = Counter()
        self.last_error = "not probed yet"
        self.probed = False
        self._num_others = 0
        self._may_eject = may_eject
        self._probe_interval_s = settings.probe_interval_s
        self._stall = StallWatch(settings.stall_timeout_s)
        # apart, so that a probe's bytes are never taken for a stream's
        self._probe_client = self._new_client(settings)

    def _new_client(self, settings: RouterSettings) -> EngineClient:
        return EngineClient(
            self.url,
            connect_timeout_s=settings.connect_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
        )

    @property
    def ready(self) -> bool:
        """In rotation, if only for one request at a time."""
        state = self.health.state(time.monotonic())
        return self.info is not None and state in (State.READY, State.HALF_OPEN)

    @property
    def load(self) -> int:
        """Requests running or waiting here: ours, and other routers' when last looked at."""
        return self.num_in_flight + self._num_others

    # ---- calls ----

    def began(self) -> int:
        self.num_in_flight += 1
        return self.health.begin(time.monotonic())

    def ended(self, epoch: int, good: bool | None) -> None:
        self.num_in_flight -= 1
        now_s = time.monotonic()
        if good:
            self._stall.progressed()
        half_open = self.health.state(now_s) is State.HALF_OPEN
        if self.health.ended(epoch, good, now_s) and (half_open or self._may_eject()):
            self.eject("failed trial" if half_open else "failures", self.last_error)

    def judge(self, error: BaseException) -> bool | None:
        """Draws the consequences of a call that was not accepted: False where it counts against
        the replica. A full queue doesn't: to eject who is busy would only push its load around."""
        if isinstance(error, ConnectFailed):
            self.lost(error)
        elif isinstance(error, EngineStopping):
            self._disown("stopping", str(error))
        elif isinstance(error, UpstreamError) and not is_clients_fault(error):
            self.last_error = str(error)
            return False
        return None

    # ---- in and out of rotation ----

    def lost(self, error: Exception) -> None:
        """Out of rotation until a probe succeeds; what it serves is asked anew then."""
        if self.ready:
            log.warning("replica %s is out of rotation: %s", self.url, error)
        self.health.lost()
        self.info = None
        self.last_error = str(error)

    def eject(self, reason: str, why: str) -> None:
        """Out of rotation for a while."""
        log.warning("replica %s is ejected (%s): %s", self.url, reason, why)
        self.num_ejections[reason] += 1
        self.health.eject(time.monotonic())
        self.last_error = why

    def _disown(self, reason: str, why: str) -> None:
        """Ejected, and it must show that it can generate before it is back (`describe`)."""
        if self.info is not None:
            self.info = None
            self.eject(reason, why)

    async def watch(self) -> None:
        """Probes until cancelled."""
        while True:
            await self._probe()
            self.probed = True
            await asyncio.sleep(
                self._probe_interval_s
                if self.ready
                else min(self._probe_interval_s, UNREADY_PROBE_INTERVAL_S)
            )

    async def _probe(self) -> None:
        """One look at the engine's health, what it serves and its load; never raises for its
        faults."""
        try:
            await expect_ok(self._probe_client, "/health")
            if self.info is None:
                self.info = await describe(self._probe_client)
                log.info("replica %s answers: %s", self.url, self.info)
        except (ServeError, *UNREADABLE) as exc:
            self.lost(exc)
            return
        self.health.reached()
        if self.ready:
            self.last_error = ""
        await self._read_load()

    async def _read_load(self) -> None:
        """An engine without readable metrics is as good; its load is what we give it."""
        num_ours = self.num_in_flight
        try:
            status, text = await self._probe_client.get_json("/metrics")
            load = parse_load(text) if status == 200 else None
        except UpstreamError:
            load = None
        if load is None:
            self.engine_load, self._num_others = None, 0
            return
        if self.engine_load is not None and load.progress != self.engine_load.progress:
            self._stall.progressed()
        self.engine_load = load
        num_ours = max(num_ours, self.num_in_flight)
        self._num_others = max(0, load.num_running + load.num_waiting - num_ours)

    def sweep(self, loop_time_s: float) -> None:
        """Called now and then, apart from the probes: time-outs must not wait for an engine that
        leaves a probe waiting."""
        self.client.sweep(loop_time_s)
        self._probe_client.sweep(loop_time_s)
        if self.client.progressed():
            self._stall.progressed()
            if self.num_in_flight == 1:
                self.health.trial_progressed(time.monotonic())
        if self._stall.stalled(time.monotonic(), self.client.num_awaited):
            self._give_up()

    def _give_up(self) -> None:
        error = UpstreamTimeout(
            f"the engine has produced nothing for {self._stall.timeout_s:g} s; it is stuck"
        )
        self._stall.progressed()
        self._disown("stalled", str(error))
        self.client.fail_all(error)

    def close(self) -> None:
        """Cuts every connection."""
        self.client.close()
        self._probe_client.close()
