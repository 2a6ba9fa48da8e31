"""Asking an engine what it is: its model, its context, and how its replies present the trace."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from serve.errors import UpstreamError
from serve.reasoning import CLOSE_TAG, CLOSING, OPEN_TAG, TraceFormat
from serve.upstream import EngineClient

PROBE_MESSAGES = [{"role": "user", "content": "1+1"}]


class EngineInfo(msgspec.Struct, frozen=True):
    """What one engine serves, asked of it once per start."""

    model: str
    max_model_len: int
    trace: TraceFormat
    has_thinking_budget: bool


class _ModelCard(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _ModelList(msgspec.Struct):
    data: Annotated[list[_ModelCard], Meta(min_length=1)]


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _ProbeMessage(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _ProbeChoice(msgspec.Struct):
    message: _ProbeMessage


class _ProbeReply(msgspec.Struct):
    choices: Annotated[list[_ProbeChoice], Meta(min_length=1)]


async def describe(client: EngineClient) -> EngineInfo:
    """Asks the engine for its model, its context, and how its replies present the trace.

    The last takes one generated token: an engine with a reasoning parser puts it in `reasoning`.
    Raises `UpstreamError` or one of `serve.wire.UNREADABLE`.
    """
    card = msgspec.json.decode(await expect_ok(client, "/v1/models"), type=_ModelList).data[0]
    prompt = await _tokenize(client, {"model": card.id, "messages": PROBE_MESSAGES})
    open_id = await _single_id(client, card.id, OPEN_TAG)
    close_id = await _single_id(client, card.id, CLOSE_TAG)
    closing = await _tokenize(client, _bare(card.id, CLOSING))
    has_budget, first = True, await _first_token(client, card.id, budget=1)
    if first is None:
        has_budget, first = False, await _first_token(client, card.id, budget=None)
    if first is None:
        raise UpstreamError("the engine refuses to generate a single token")
    message = first.choices[0].message
    return EngineInfo(
        model=card.id,
        max_model_len=card.max_model_len or 32768,
        trace=TraceFormat(
            opened_by_template=open_id in prompt[-4:] if prompt and open_id is not None else True,
            split_by_engine=not message.content,
            open_id=open_id,
            close_id=close_id,
            closing_ids=tuple(closing) if close_id in closing else (),
        ),
        has_thinking_budget=has_budget,
    )


async def expect_ok(client: EngineClient, path: str) -> bytes:
    status, body = await client.get_json(path)
    if status != 200:
        raise UpstreamError(f"{path} answered {status}")
    return body


async def _post(client: EngineClient, path: str, body: dict[str, object]) -> tuple[int, bytes]:
    async with await client.request("POST", path, msgspec.json.encode(body)) as reply:
        return reply.status, await reply.read_all()


async def _tokenize(client: EngineClient, body: dict[str, object]) -> list[int]:
    status, reply = await _post(client, "/tokenize", body)
    return msgspec.json.decode(reply, type=_Tokens).tokens if status == 200 else []


async def _single_id(client: EngineClient, model: str, tag: str) -> int | None:
    ids = await _tokenize(client, _bare(model, tag))
    return ids[0] if len(ids) == 1 else None


def _bare(model: str, text: str) -> dict[str, object]:
    return {"model": model, "prompt": text, "add_special_tokens": False}


async def _first_token(client: EngineClient, model: str, budget: int | None) -> _ProbeReply | None:
    """One generated token, or None where the engine calls the request invalid."""
    body: dict[str, object] = {
        "model": model,
        "messages": PROBE_MESSAGES,
        "max_tokens": 1,
        "temperature": 0,
    }
    if budget is not None:
        body["thinking_token_budget"] = budget
    status, reply = await _post(client, "/v1/chat/completions", body)
    if status >= 500:
        raise UpstreamError(f"the engine answered {status} to a probe of one token")
    return msgspec.json.decode(reply, type=_ProbeReply) if status == 200 else None
