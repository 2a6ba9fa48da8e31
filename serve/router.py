"""The HTTP surface: routes, thin. `build_app` makes the whole router.

A request walks one way: body → protocol → presets → admission → replica → upstream → reasoning →
reply. State is built here once and hangs on `app.state`; nothing is global.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import AsyncIterator
from typing import TypeVar

from fastapi import FastAPI, Request, Response

from serve import __version__
from serve.access import claim_of
from serve.app import App, add_error_handlers, read_body
from serve.chat import ChatReply, make_head
from serve.completion import CompletionReply
from serve.drain import Drain
from serve.information import add_information_routes
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
from serve.plan import plan_chat, plan_completion
from serve.playground import add_playground
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
from serve.settings import Settings
from serve.state import Router
from serve.tokenizer import count_tokens
from serve.turns import engine_messages
from serve.visit import visit_of
from serve.worker import ALONE, Worker

FIRST_LOOK_S = 5.0
"""As long as a connection to an engine may take by default."""

R = TypeVar("R", bound=ChatReply)


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
        async with (
            watching,
            router.journal.running(),
            router.replicas.running(),
            router.telemetry.running(),
        ):
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
        docs_url=None,  # FastAPI's pages let another host's scripts run at this one's address
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.router = router
    app.state.drain = Drain()
    add_error_handlers(app)
    _add_generation_routes(app, router)
    add_information_routes(app, router)
    if settings.server.playground:
        add_playground(app)
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
        visit = visit_of(request.scope)
        reply_id = f"{reply.id_prefix}{secrets.token_hex(16)}"
        return reply(
            plan,
            router.sampled(plan, reply_id, admission, visit.legs),
            make_head(reply_id, plan.model, list(settings.router.reasoning_fields)),
            admission=admission,
            telemetry=router.telemetry,
            visit=visit,
        )

    @app.post("/v1/chat/completions", openapi_extra=CHAT_SCHEMA)
    async def chat(request: Request) -> Response:
        body = await read_body(request, settings.server.max_body_bytes)
        data = parse_json(body)
        return start(request, body, parse_chat(data), data, ChatReply)

    @app.post("/v1/completions", openapi_extra=COMPLETION_SCHEMA)
    async def completions(request: Request) -> Response:
        body = await read_body(request, settings.server.max_body_bytes)
        data = parse_json(body)
        completion = parse_completion(data)
        info, _ = router.resolve(completion.model, None)
        plan = plan_completion(completion, data, model=info.model)
        admission = router.gate.admit(claim_of(request.scope, body, completion))
        set_priority(plan, admission.claim.priority)
        visit = visit_of(request.scope)
        return CompletionReply(plan, router.replicas, admission, router.telemetry, visit)

    @app.post("/v1/responses", openapi_extra=RESPONSES_SCHEMA)
    async def responses(request: Request) -> Response:
        body = await read_body(request, settings.server.max_body_bytes)
        data = parse_json(body)
        asked = parse_responses(data)
        with named_as_asked():
            reply = start(request, body, *as_chat(asked, data), ResponsesReply)
        return reply.answering(asked)

    @app.post("/v1/messages", openapi_extra=MESSAGES_SCHEMA)
    async def messages(request: Request) -> Response:
        body = await read_body(request, settings.server.max_body_bytes)
        return start(request, body, *messages_chat(parse_json(body)), MessagesReply)

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


def set_priority(body: dict[str, object], priority: int) -> None:
    """In the engine's body, where it isn't the usual one: vLLM's documentation lets an engine
    without priority scheduling refuse any other than 0."""
    body.pop("priority", None)
    if priority != 0:
        body["priority"] = priority
