"""The HTTP surface: routes and error handlers, thin. `build_app` makes the whole router.

A request walks one way: body → protocol → presets → admission → replica → upstream → reasoning →
reply. State is built here once and hangs on `app.state`; nothing is global.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from serve import __version__, openapi
from serve.access import authenticate, claim_of
from serve.admission import Gate
from serve.chat import ChatReply, make_head
from serve.completion import CompletionReply
from serve.describe import EngineInfo
from serve.drain import Drain
from serve.errors import (
    FAILED,
    BodyTooLarge,
    InvalidKey,
    MethodNotAllowed,
    NotReady,
    RouteNotFound,
    ServeError,
)
from serve.generation import Generation
from serve.keys import KeyRing
from serve.openapi import CHAT_SCHEMA, COMPLETION_SCHEMA, TOKENIZE_SCHEMA
from serve.presets import (
    PresetBook,
    engine_messages,
    load_presets,
    plan_chat,
    plan_completion,
    resolve_model,
)
from serve.protocol import parse_chat, parse_completion, parse_json, parse_tokenize
from serve.replicas import ReplicaSet
from serve.response import outcome_of
from serve.settings import Settings, SettingsError
from serve.shared import Shared
from serve.strict import did_you_mean
from serve.telemetry import Stopwatch, Telemetry
from serve.worker import ALONE, Worker

log = logging.getLogger(__name__)

FIRST_LOOK_S = 2.0


class Router:
    """The router's state: settings, presets, keys, replicas, gate, telemetry."""

    def __init__(self, settings: Settings, worker: Worker) -> None:
        self.settings = settings
        shared = Shared(worker)
        self.presets = self._read_presets()
        self.replicas = ReplicaSet(settings.router)
        self.gate = Gate(
            settings.router.max_in_flight,
            max_queued=settings.router.max_queued,
            queue_timeout_s=settings.router.queue_timeout_s,
            counters=shared.counters("gate"),
            replica_capacity=lambda: self.replicas.capacity,
        )
        keys_file = settings.server.keys_file
        self.keys = KeyRing(Path(keys_file), shared) if keys_file is not None else None
        self.telemetry = Telemetry(
            lambda: self.gate.num_in_flight, lambda: self.gate.num_queued, self.replicas, worker
        )

    def reload(self) -> None:
        """Reads presets and keys again, whether they changed or not."""
        self.reload_presets()
        if self.keys is not None:
            self.keys.reload()

    def reload_presets(self) -> None:
        """Reads the presets again; a broken file is reported and the old presets stay."""
        try:
            self.presets = self._read_presets()
        except SettingsError as exc:
            log.error("presets not reloaded: %s", exc)
        else:
            log.info("presets reloaded: %s", ", ".join(self.presets.presets))

    def _read_presets(self) -> PresetBook:
        router = self.settings.router
        book = load_presets(Path(router.presets) if router.presets else None)
        if router.default_preset not in book.presets:
            raise SettingsError(
                f"router.default_preset = `{router.default_preset}` is not among the presets"
                f"{did_you_mean(router.default_preset, book.presets)}"
            )
        return book

    def resolve(self, model: str | None, preset: str | None) -> tuple[EngineInfo, str]:
        """What serves the asked model, and the preset to use. Raises `ServeError`."""
        models = self.replicas.models()
        if not models:
            raise self.replicas.not_ready()
        name, named = resolve_model(model, preset, models, self.presets)
        return models[name], named or self.settings.router.default_preset


Handler = Callable[[Request], Awaitable[Response]]


class _App(FastAPI):
    """`generations`, by path, are served before FastAPI's middleware and routing, which cost more
    than all that a request needs of ours (`docs/decisions/0009-streaming-path.md`). They are routes
    all the same: for the OpenAPI document, for wrong methods, for apps that mount this one."""

    generations: Mapping[str, Handler] = {}

    def openapi(self) -> dict[str, Any]:
        return openapi.complete(super().openapi())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        try:
            authenticate(scope, self.state.router.keys)
        except InvalidKey as exc:
            self.state.router.telemetry.rejected("invalid_key")
            await error_reply(exc)(scope, receive, send)
            return
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        handler = self.generations.get(scope["path"]) if is_post else None
        if handler is not None:
            await self._generate(handler, Request(scope, receive), send)
        else:
            await super().__call__(scope, receive, send)

    async def _generate(self, handler: Handler, request: Request, send: Send) -> None:
        try:
            response = await handler(request)
            await response(request.scope, request.receive, send)
        except ClientDisconnect:
            return
        except Exception as exc:  # answered and logged by the handlers of every other route
            kind = ServeError if isinstance(exc, ServeError) else Exception
            answer = cast(Awaitable[Response], self.exception_handlers[kind](request, exc))
            await (await answer)(request.scope, request.receive, send)


def build_app(settings: Settings, worker: Worker = ALONE) -> FastAPI:
    """The router over the engines that `settings.router` names; `worker` makes it one of several.
    Raises `SettingsError`."""
    router = Router(settings, worker)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ValueError, NotImplementedError, RuntimeError):
            loop.add_signal_handler(signal.SIGHUP, router.reload)
        watching = router.keys.watching() if router.keys else contextlib.nullcontext()
        async with watching, router.replicas.running(), router.telemetry.running():
            if worker.count > 1:
                await _first_look(router.replicas)
            yield

    app = _App(
        title="r1-serve",
        version=__version__,
        summary="A reasoning-aware, OpenAI-compatible router over vLLM.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.router = router
    app.state.drain = Drain()
    _add_error_handlers(app, router)
    _add_generation_routes(app, router)
    _add_information_routes(app, router)
    return app


async def _first_look(replicas: ReplicaSet) -> None:
    """A worker must not listen before it can serve: others that can are behind the same port."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIRST_LOOK_S):
            while not replicas.ready:  # noqa: ASYNC110  (replicas are watched, not waited for)
                await asyncio.sleep(0.01)


def _add_generation_routes(app: _App, router: Router) -> None:
    settings = router.settings

    @app.post("/v1/chat/completions", openapi_extra=CHAT_SCHEMA)
    async def chat(request: Request) -> Response:
        watch = Stopwatch()
        body = await read_body(request, settings.server.max_body_bytes)
        data = parse_json(body)
        chat_request = parse_chat(data)
        info, preset = router.resolve(chat_request.model, chat_request.preset)
        plan = plan_chat(
            chat_request,
            data,
            model=info.model,
            max_model_len=info.max_model_len,
            preset_name=preset,
            book=router.presets,
            merge_system=settings.router.merge_system_message,
        )
        admission = router.gate.admit(claim_of(request.scope, body, chat_request))
        set_priority(plan.body, admission.claim.priority)
        request_id = f"chatcmpl-{secrets.token_hex(16)}"
        return ChatReply(
            plan,
            Generation(plan, router.replicas, request_id),
            make_head(request_id, plan.model, list(settings.router.reasoning_fields)),
            admission=admission,
            telemetry=router.telemetry,
            watch=watch,
        )

    @app.post("/v1/completions", openapi_extra=COMPLETION_SCHEMA)
    async def completions(request: Request) -> Response:
        watch = Stopwatch()
        body = await read_body(request, settings.server.max_body_bytes)
        data = parse_json(body)
        completion = parse_completion(data)
        info, _ = router.resolve(completion.model, None)
        plan = plan_completion(completion, data, model=info.model)
        admission = router.gate.admit(claim_of(request.scope, body, completion))
        set_priority(plan, admission.claim.priority)
        return CompletionReply(plan, router.replicas, admission, router.telemetry, watch)

    app.generations = {"/v1/chat/completions": chat, "/v1/completions": completions}

    @app.post("/tokenize", openapi_extra=TOKENIZE_SCHEMA)
    async def tokenize(request: Request) -> Response:
        data = parse_json(await read_body(request, settings.server.max_body_bytes))
        asked = parse_tokenize(data)
        info, preset = router.resolve(asked.model, None)
        body = {key: value for key, value in data.items() if value is not None}
        body["model"] = info.model
        if asked.messages is not None:
            body["messages"] = engine_messages(
                asked.messages,
                router.presets.get(preset).instruction,
                settings.router.merge_system_message,
            )
        reply = await router.replicas.call(info.model, "/tokenize", body)
        return Response(reply, media_type="application/json")


def _add_information_routes(app: FastAPI, router: Router) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Alive: the process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, object]:
        """Can serve: at least one ready replica, and not draining."""
        app.state.drain.refuse()
        if not router.replicas.ready:
            raise router.replicas.not_ready()
        return {"status": "ok", "replicas_ready": len(router.replicas.ready)}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(
            router.telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        """Every served model, plain and with each preset."""
        served = router.replicas.models()
        cards = [
            {
                "id": name,
                "object": "model",
                "created": 0,
                "owned_by": "r1-serve",
                "max_model_len": info.max_model_len,
            }
            for model, info in served.items()
            for name in (model, *(f"{model}:{preset}" for preset in router.presets.presets))
        ]
        return {"object": "list", "data": cards}

    @app.get("/v1/models/{model}")
    async def model(model: str) -> dict[str, object]:
        info, _ = router.resolve(model, None)
        return {
            "id": model,
            "object": "model",
            "created": 0,
            "owned_by": "r1-serve",
            "max_model_len": info.max_model_len,
        }

    @app.get("/v1/presets")
    async def presets() -> dict[str, object]:
        """Every preset with its values; null means that the client and the engine decide."""
        book = router.presets
        return {
            "object": "list",
            "default": router.settings.router.default_preset,
            "reasoning_effort": book.reasoning_effort,
            "data": [
                {"id": name, "object": "preset", **msgspec.to_builtins(preset)}
                for name, preset in book.presets.items()
            ],
        }


def _add_error_handlers(app: FastAPI, router: Router) -> None:
    @app.exception_handler(ServeError)
    async def serve_error(request: Request, exc: ServeError) -> Response:
        if not isinstance(exc, NotReady):
            log.info("%s %s: %s", request.method, request.url.path, outcome_of(exc))
        return error_reply(exc)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, exc: HTTPException) -> Response:
        if exc.status_code == 405:
            return error_reply(
                MethodNotAllowed(f"{request.method} isn't allowed on {request.url.path}")
            )
        paths = [str(getattr(route, "path", "")) for route in app.routes]
        hint = did_you_mean(request.url.path, paths)
        return error_reply(RouteNotFound(f"there is no {request.url.path} here{hint}"))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, exc: Exception) -> Response:
        log.error("unexpected error on %s", request.url.path, exc_info=exc)
        return error_reply(ServeError(FAILED))


def set_priority(body: dict[str, object], priority: int) -> None:
    """In the engine's body, where it isn't the usual one: vLLM's documentation lets an engine
    without priority scheduling refuse any other than 0."""
    body.pop("priority", None)
    if priority != 0:
        body["priority"] = priority


def error_reply(error: ServeError) -> Response:
    return Response(
        error.body(), error.status, headers=error.headers(), media_type="application/json"
    )


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
    with request.app.state.drain.under_way():
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
