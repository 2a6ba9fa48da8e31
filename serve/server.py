"""Runs an app under uvicorn inside the current event loop, and drains it when cancelled.

uvicorn's own shutdown closes its port first. A router that leaves must go on answering instead:
`/ready` with 503 so that balancers see it, new requests with 503 so that clients go elsewhere.
Signals are the caller's (`serve.supervise`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from serve.drain import Drain
from serve.http import HttpProtocol
from serve.settings import ServerSettings

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 75
"""Longer than common load balancers' 60 s, so that they close idle connections first."""
LAST_WORDS_S = 5
"""After the drain's limit: for the error events to reach clients that read slowly."""
LAST_CALL_S = 1
"""Clients ask again the moment their reply ends, which is when the drain does."""
LAST_ORDERS = 0.5
"""Of the drain's time: who asks again later is sent elsewhere, since his reply might be cut."""
POLL_S = 0.02
TICKS_BETWEEN_SWEEPS = 20
"""uvicorn's tick is 0.1 s."""
COLLECT_EVERY = 20_000
"""New objects, such as some hundred new streams make."""


class ServerError(RuntimeError):
    """The server could not listen."""


def spare_collector() -> None:
    """Has the garbage collector look seldom, and never at what is there by now. Once per process,
    after the app is built: requests leave no circles behind, and the usual looks, every 700 new
    objects, cost a quarter of a short request's CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY)


async def run(
    app: FastAPI,
    server: ServerSettings,
    *,
    on_started: Callable[[str], None] | None = None,
    shared: bool = False,
) -> None:
    """Serves until cancelled, then drains: open replies may end for `drain_timeout_s`, and one
    more cancel cuts them short. `on_started` gets the URL once the port is open; `shared` lets
    other processes listen on the same port.

    Raises `ServerError` where the port can't be opened.
    """
    config = uvicorn.Config(
        app,
        loop="none",
        http=HttpProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=LAST_WORDS_S,
    )
    with contextlib.closing(listen(server.host, server.port, shared=shared)) as listener:
        url = url_of(listener)
        uvicorn_server = _Server(
            config, app.state.drain, server.drain_timeout_s, lambda: on_started and on_started(url)
        )
        try:
            await uvicorn_server.serve(sockets=[listener])
        except asyncio.CancelledError:
            if uvicorn_server.started:
                await uvicorn_server.shutdown(sockets=[listener])
            raise


class _Server(uvicorn.Server):
    """Announces when it is up; leaves signals alone; goes on answering while it drains."""

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Drain,
        drain_timeout_s: float,
        announce: Callable[[], object],
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._drain_timeout_s = drain_timeout_s
        self._announce = announce

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_BETWEEN_SWEEPS == 0:
            now_s = asyncio.get_running_loop().time()
            for connection in self._connections():
                connection.give_up(now_s)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drains, then ends as uvicorn does. Cancelling cuts the drain short."""
        self._drain.begin()
        self._see_clients_off()
        last_orders = asyncio.get_running_loop().call_later(
            LAST_ORDERS * self._drain_timeout_s, self._drain.close
        )
        try:
            async with asyncio.timeout(self._drain_timeout_s):
                await self._all_answered()
        except TimeoutError:
            log.warning("replies still open after %.0f s of draining", self._drain_timeout_s)
        finally:
            last_orders.cancel()
            if num_cut := self._drain.expire():
                log.warning("replies cut short: %d", num_cut)
                await self._last_call()
            await super().shutdown(sockets)

    def _see_clients_off(self) -> None:
        """Idle connections are closed; the others, and those yet to come, after a reply that says
        so in its head."""
        self.server_state.default_headers = [(b"connection", b"close")]
        for connection in self._connections():
            connection.begin_drain(LAST_CALL_S)

    async def _all_answered(self) -> None:
        """Returns once no reply is under way, all that were have left, and nobody who was connected
        before has asked again for `LAST_CALL_S`. Who comes now is refused, and waited for by
        nobody: such clients may come for as long as the port is open."""
        quiet_s = 0.0
        while quiet_s < LAST_CALL_S:
            before = self._from_before()
            busy = self._drain.replying or any(connection.is_busy for connection in before)
            if not (busy or before):
                return
            await asyncio.sleep(POLL_S)  # uvicorn tells nobody when one of these ends
            quiet_s = 0.0 if busy else quiet_s + POLL_S

    async def _last_call(self) -> None:
        """Whose replies were cut may ask again, and are sent elsewhere."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_CALL_S):
                while self._from_before():  # noqa: ASYNC110  (as above)
                    await asyncio.sleep(POLL_S)

    def _from_before(self) -> list[HttpProtocol]:
        """The connections that were there when the drain began."""
        return [it for it in self._connections() if it.came_before_drain]

    def _connections(self) -> list[HttpProtocol]:
        return [it for it in self.server_state.connections if isinstance(it, HttpProtocol)]


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; `shared` lets others bind the same port (SO_REUSEPORT), among which the
    kernel spreads the connections. Raises `ServerError` that says what holds the port."""
    return bind(host, port, shared=shared, backlog=2048)


def bind(
    host: str, port: int, *, shared: bool = False, backlog: int | None = None
) -> socket.socket:
    """A socket that holds the port; it listens where `backlog` is given. Raises `ServerError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
        if backlog is not None:
            bound.listen(backlog)
    except OSError as exc:
        bound.close()
        raise ServerError(f"can't listen on {host}:{port}: {exc.strerror}") from exc
    return bound


def url_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
