"""Runs an app under uvicorn inside the current event loop, and drains it on SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from serve.http import HttpProtocol
from serve.settings import ServerSettings

KEEP_ALIVE_S = 75
"""Longer than common load balancers' 60 s, so that they close idle connections first."""


class ServerError(RuntimeError):
    """The server could not listen."""


async def run(
    app: FastAPI, server: ServerSettings, *, on_started: Callable[[str], None] | None = None
) -> None:
    """Serves until a signal, then lets open requests end for `drain_timeout_s`; cancelling it
    drains likewise. `on_started` gets the URL once the port is open.

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
        timeout_graceful_shutdown=round(server.drain_timeout_s),
    )
    with contextlib.closing(listen(server.host, server.port)) as listener:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        uvicorn_server = _Server(
            config, lambda: on_started and on_started(f"http://{shown}:{port}")
        )
        try:
            await uvicorn_server.serve(sockets=[listener])
        except asyncio.CancelledError:
            if uvicorn_server.started:
                await uvicorn_server.shutdown(sockets=[listener])
            raise


class _Server(uvicorn.Server):
    """Announces when it is up, and tells the app when the drain begins."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], object]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app = self.config.app
        if isinstance(app, FastAPI):
            app.state.draining = True
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `ServerError` that says what holds the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as exc:
        listener.close()
        raise ServerError(f"can't listen on {host}:{port}: {exc.strerror}") from exc
    return listener
