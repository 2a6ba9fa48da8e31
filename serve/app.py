"""How requests come in and how errors go out: the key check, the body, the error replies.

`App` is FastAPI with a short cut; its routes are `serve.router`'s.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from serve import openapi
from serve.access import authenticate, key_name
from serve.errors import (
    FAILED,
    BodyTooLarge,
    InvalidKey,
    MethodNotAllowed,
    NotReady,
    RouteNotFound,
    ServeError,
)
from serve.journal import NOT_TOLD
from serve.playground import PREFIX
from serve.response import EngineResponse
from serve.state import Router
from serve.strict import did_you_mean
from serve.telemetry import Telemetry
from serve.usage import Usage
from serve.visit import Visit, visit_of

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]


class App(FastAPI):
    """`generations`, by path, are served before FastAPI's middleware and routing, which cost more
    than all that a request needs of ours (`docs/decisions/0009-streaming-path.md`). They are routes
    all the same, for the OpenAPI document and for wrong methods."""

    generations: Mapping[str, Handler] = {}
    error_bodies: Mapping[str, Callable[[ServeError], bytes]] = {}
    """Beginning of a path → the form of errors there, where it isn't OpenAI's."""

    def openapi(self) -> dict[str, Any]:
        return openapi.complete(super().openapi())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        router: Router = self.state.router
        visit = router.journal.begin(scope)
        try:
            try:
                authenticate(scope, router.keys)
            except InvalidKey as exc:
                router.telemetry.rejected("invalid_key")
                await self.error_reply(exc, scope)(scope, receive, visit.noting(send))
                return
            visit.key = key_name(scope)
            handler = self.generations.get(scope["path"]) if scope["method"] == "POST" else None
            if handler is None:
                await super().__call__(scope, receive, visit.noting(send))
            else:
                router.journal.trace(visit, scope)
                await self._generate(handler, visit, Request(scope, receive), send)
        finally:
            path = scope["path"]
            if path in self.generations or not (path in NOT_TOLD or path.startswith(PREFIX)):
                visit.route = self.route_of(scope)
                router.journal.end(visit)

    async def _generate(self, handler: Handler, visit: Visit, request: Request, send: Send) -> None:
        response: Response | None = None
        try:
            response = await handler(request)
            if isinstance(response, EngineResponse):
                visit.reply = response
            await response(request.scope, request.receive, send)
        except ClientDisconnect:
            visit.outcome = "client_gone"
            self._count_refused(visit, request)
        except Exception as exc:  # answered and logged by the handlers of every other route
            kind = ServeError if isinstance(exc, ServeError) else Exception
            answer = await cast(Awaitable[Response], self.exception_handlers[kind](request, exc))
            if response is None:
                self._count_refused(visit, request)
                if isinstance(exc, NotReady):
                    self.state.router.telemetry.rejected(exc.reason)
            await answer(request.scope, request.receive, visit.noting(send))

    def route_of(self, scope: Scope) -> str | None:
        """The route that a request is for, as it is declared: other paths are the client's words.
        None where there is none."""
        if scope["path"] in self._paths:
            return str(scope["path"])
        return getattr(scope.get("route"), "path", None)

    @functools.cached_property
    def _paths(self) -> frozenset[str]:
        return frozenset(str(getattr(route, "path", "")) for route in self.routes)

    def _count_refused(self, visit: Visit, request: Request) -> None:
        """A request that ends before there is a reply that would count itself."""
        telemetry: Telemetry = self.state.router.telemetry
        telemetry.record_refused(request.scope["path"], visit.outcome)
        if visit.key is not None:
            telemetry.count_key(visit.key, visit.outcome, Usage())

    def error_reply(self, error: ServeError, scope: Scope) -> Response:
        visit_of(scope).failed(error)
        path = scope["path"]
        forms = (form for prefix, form in self.error_bodies.items() if path.startswith(prefix))
        body = next(forms, ServeError.body)(error)
        return Response(body, error.status, headers=error.headers(), media_type="application/json")


def add_error_handlers(app: App) -> None:
    @app.exception_handler(ServeError)
    async def serve_error(request: Request, exc: ServeError) -> Response:
        return app.error_reply(exc, request.scope)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, exc: HTTPException) -> Response:
        path = request.url.path
        if exc.status_code == 405:
            error = MethodNotAllowed(f"{request.method} isn't allowed on {path}")
            return app.error_reply(error, request.scope)
        paths = [str(getattr(route, "path", "")) for route in app.routes]
        hint = did_you_mean(path, paths)
        return app.error_reply(RouteNotFound(f"there is no {path} here{hint}"), request.scope)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, exc: Exception) -> Response:
        log.error("unexpected error on %s", app.route_of(request.scope), exc_info=exc)
        return app.error_reply(ServeError(FAILED), request.scope)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The request's body. Raises `BodyTooLarge` as soon as it is known to be, `ShuttingDown` where
    it hasn't come at the drain's limit, `ClientDisconnect` where it never will."""
    too_large = functools.partial(
        BodyTooLarge, f"the body is larger than {max_bytes} bytes, the limit of this server"
    )
    for name, value in request.scope["headers"]:
        if name == b"content-length" and int(value) > max_bytes:
            raise too_large()
    parts, size, more = [], 0, True
    with request.app.state.drain.under_way(reply=False):
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part = message.get("body", b"")
            size += len(part)
            if size > max_bytes:
                raise too_large()
            parts.append(part)
            more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)
