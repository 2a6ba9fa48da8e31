"""The HTTP surface: routes, thin. `build_app` makes the whole router.

A request walks one way: body → protocol → presets → admission → replica → upstream → reasoning →
reply. State is built here once and hangs on `app.state`; nothing is global.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import msgspec
from fastapi import FastAPI, Request, Response

from serve import __version__
from serve.access import claim_of
from serve.admission import Admission, Gate
from serve.app import App, add_error_handlers, read_body
from serve.brownout import Brownout
from serve.chat import ChatReply, make_head
from serve.completion import CompletionReply
from serve.describe import EngineInfo
from serve.drain import Drain
from serve.forms import Sampled
from serve.generation import Generation
from serve.keys import KeyRing
from serve.lengths import UsualLengths
from serve.load import engine_pressure
from serve.messages import count_tokens_chat, messages_chat
from serve.messages_reply import MessagesReply, error_body
from serve.openapi import (
    CHAT_SCHEMA,
    COMPLETION_SCHEMA,
    COUNT_TOKENS_SCHEMA,
    MESSAGES_SCHEMA,
    RESPONSES_SCHEMA,
    TOKENIZE_SCHEMA,
)
from serve.plan import Plan, plan_chat, plan_completion
from serve.presets import PresetBook, load_presets, resolve_model
from serve.protocol import (
    ChatRequest,
    Message,
    parse_chat,
    parse_completion,
    parse_json,
    parse_tokenize,
)
from serve.replicas import ReplicaSet
from serve.responses import as_chat, named_as_asked, parse_responses
from serve.responses_reply import ResponsesReply
from serve.settings import Settings, SettingsError
from serve.several import Several
from serve.shared import Shared
from serve.strict import did_you_mean
from serve.symbolic import SymbolicChecker
from serve.telemetry import Stopwatch, Telemetry
from serve.tokenizer import count_tokens
from serve.turns import engine_messages
from serve.votes import Vote
from serve.worker import ALONE, Worker

log = logging.getLogger(__name__)

FIRST_LOOK_S = 2.0

R = TypeVar("R", bound=ChatReply)


class Router:
    """The router's state: settings, presets, keys, replicas, gate, telemetry."""

    def __init__(self, settings: Settings, worker: Worker) -> None:
        self.settings = settings
        shared = Shared(worker)
        self.presets = self._read_presets()
        self.replicas = ReplicaSet(settings.router)
        self.checker = SymbolicChecker()
        self.gate = Gate(
            settings.router.max_in_flight,
            max_queued=settings.router.max_queued,
            queue_timeout_s=settings.router.queue_timeout_s,
            counters=shared.counters("gate"),
            replica_capacity=lambda: self.replicas.capacity,
        )
        keys_file = settings.server.keys_file
        self.keys = KeyRing(Path(keys_file), shared) if keys_file is not None else None
        self.brownout = Brownout(settings.brownout, self._pressure)
        self.answers = UsualLengths()
        self.telemetry = Telemetry(
            lambda: self.gate.num_in_flight,
            lambda: self.gate.num_queued,
            self.replicas,
            self.brownout,
            self.answers,
            worker,
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

    def _pressure(self, priority: int) -> float:
        """What keeps requests with this priority from running at once, here or on the engines."""
        looks = (replica.engine_load for replica in self.replicas.ready)
        engines = engine_pressure([load for load in looks if load is not None])
        return max(self.gate.pressure(priority), engines)

    def sampled(self, plan: Plan, request_id: str, admission: Admission) -> Sampled:
        """What makes the choices of a planned reply."""
        if plan.votes is not None:
            return Vote(plan, self.replicas, request_id, admission, self.checker)
        if plan.num_choices > 1:
            return Several(plan, self.replicas, request_id, admission)
        return Generation(plan, self.replicas, request_id)


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
            await _first_look(router.replicas)
            try:
                yield
            finally:
                await router.checker.close()

    app = App(
        title="r1-serve",
        version=__version__,
        summary="A reasoning-aware, OpenAI-compatible router over vLLM.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.router = router
    app.state.drain = Drain()
    add_error_handlers(app)
    _add_generation_routes(app, router)
    _add_information_routes(app, router)
    return app


async def _first_look(replicas: ReplicaSet) -> None:
    """Who listens can serve, if it can be: who asks at once isn't told that no engine is known yet,
    and other workers may be behind the same port."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIRST_LOOK_S):
            while not (replicas.ready or replicas.all_probed):  # noqa: ASYNC110  (they are watched)
                await asyncio.sleep(0.01)


def _add_generation_routes(app: App, router: Router) -> None:
    settings = router.settings

    def start(
        request: Request,
        watch: Stopwatch,
        body: bytes,
        asked: ChatRequest,
        data: dict[str, object],
        reply: type[R],
    ) -> R:
        """The reply to a chat, in whatever form it was asked; `data` is what `asked` was read
        from."""
        info, preset = router.resolve(asked.model, asked.preset)
        claim = claim_of(request.scope, body, asked)
        plan = plan_chat(
            asked,
            data,
            model=info.model,
            max_model_len=info.max_model_len,
            preset_name=preset,
            book=router.presets,
            merge_system=settings.router.merge_system_message,
            cap=router.brownout.cap(preset, claim.priority),
            usual_answer_tokens=router.answers.usual(preset),
        )
        admission = router.gate.admit(claim)
        set_priority(plan.body, claim.priority)
        request_id = f"{reply.id_prefix}{secrets.token_hex(16)}"
        return reply(
            plan,
            router.sampled(plan, request_id, admission),
            make_head(request_id, plan.model, list(settings.router.reasoning_fields)),
            admission=admission,
            telemetry=router.telemetry,
            watch=watch,
        )

    @app.post("/v1/chat/completions", openapi_extra=CHAT_SCHEMA)
    async def chat(request: Request) -> Response:
        watch = Stopwatch()
        body = await read_body(request, settings.server.max_body_bytes)
        data = parse_json(body)
        return start(request, watch, body, parse_chat(data), data, ChatReply)

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

    @app.post("/v1/responses", openapi_extra=RESPONSES_SCHEMA)
    async def responses(request: Request) -> Response:
        watch = Stopwatch()
        body = await read_body(request, settings.server.max_body_bytes)
        data = parse_json(body)
        asked = parse_responses(data)
        with named_as_asked():
            reply = start(request, watch, body, *as_chat(asked, data), ResponsesReply)
        return reply.answering(asked)

    @app.post("/v1/messages", openapi_extra=MESSAGES_SCHEMA)
    async def messages(request: Request) -> Response:
        watch = Stopwatch()
        body = await read_body(request, settings.server.max_body_bytes)
        return start(request, watch, body, *messages_chat(parse_json(body)), MessagesReply)

    app.generations = {
        "/v1/chat/completions": chat,
        "/v1/completions": completions,
        "/v1/responses": responses,
        "/v1/messages": messages,
    }
    app.error_bodies = {"/v1/messages": error_body}

    def prompt_of(model: str, preset: str, messages: list[Message]) -> dict[str, object]:
        """What an engine's /tokenize is asked of a chat."""
        instruction = router.presets.get(preset).instruction
        merge = settings.router.merge_system_message
        return {"model": model, "messages": engine_messages(messages, instruction, merge)}

    @app.post("/v1/messages/count_tokens", openapi_extra=COUNT_TOKENS_SCHEMA)
    async def count_message_tokens(request: Request) -> dict[str, int]:
        data = parse_json(await read_body(request, settings.server.max_body_bytes))
        asked = count_tokens_chat(data)
        info, preset = router.resolve(asked.model, asked.preset)
        prompt = prompt_of(info.model, preset, asked.messages)
        if asked.tools:
            prompt["tools"] = asked.tools
        return {"input_tokens": (await count_tokens(router.replicas, prompt)).count}

    @app.post("/tokenize", openapi_extra=TOKENIZE_SCHEMA)
    async def tokenize(request: Request) -> Response:
        data = parse_json(await read_body(request, settings.server.max_body_bytes))
        asked = parse_tokenize(data)
        info, preset = router.resolve(asked.model, None)
        body = {key: value for key, value in data.items() if value is not None}
        body["model"] = info.model
        if asked.messages is not None:
            body |= prompt_of(info.model, preset, asked.messages)
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


def set_priority(body: dict[str, object], priority: int) -> None:
    """In the engine's body, where it isn't the usual one: vLLM's documentation lets an engine
    without priority scheduling refuse any other than 0."""
    body.pop("priority", None)
    if priority != 0:
        body["priority"] = priority
