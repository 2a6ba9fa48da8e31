"""What only an engine's tokenizer can tell, asked of an engine."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from serve.errors import ContextLengthExceeded, ServeError, UpstreamError
from serve.replicas import ReplicaSet
from serve.wire import UNREADABLE

_BROKEN_CHARACTER = "\ufffd"
_TAIL_TOKENS = 16
"""Ids to decode to see whether a character is whole: it takes four tokens at most."""


class Count(msgspec.Struct):
    count: int
    max_model_len: int


class _Text(msgspec.Struct):
    prompt: str


async def count_tokens(replicas: ReplicaSet, body: dict[str, object]) -> Count:
    """How long a prompt with the `model` and `messages` of `body` is. Raises `ServeError`."""
    reply = await replicas.call(str(body["model"]), "/tokenize", body)
    try:
        return msgspec.json.decode(reply, type=Count)
    except UNREADABLE as exc:
        raise UpstreamError(f"/tokenize could not be read: {exc}") from exc


async def explain_too_long(
    replicas: ReplicaSet, body: dict[str, object], told: ContextLengthExceeded
) -> ContextLengthExceeded:
    """The context error for the chat `body` with exact figures; where the engine can't tell them,
    its own words."""
    asked = {key: body[key] for key in ("model", "messages")}
    try:
        counted = await count_tokens(replicas, asked)
    except ServeError:
        return told
    too_many = counted.count - counted.max_model_len + 1
    return ContextLengthExceeded(
        f"the prompt has {counted.count} tokens, {too_many} too many for a context of "
        f"{counted.max_model_len} that must also hold the reply; shorten the messages",
        param="messages",
    )


async def num_whole(replicas: ReplicaSet, model: str, ids: Sequence[int]) -> int:
    """How many of `ids` have all their text emitted: an engine holds back an unfinished character,
    and one that is to go on inside it repeats the whole prompt (vLLM 0.32). Raises `ServeError`."""
    num_ids = len(ids)
    while num_ids:
        tail = list(ids[max(0, num_ids - _TAIL_TOKENS) : num_ids])
        reply = await replicas.call(model, "/detokenize", {"model": model, "tokens": tail})
        try:
            text = msgspec.json.decode(reply, type=_Text).prompt
        except UNREADABLE as exc:
            raise UpstreamError(f"/detokenize could not be read: {exc}") from exc
        if not text.endswith(_BROKEN_CHARACTER):
            break
        num_ids -= 1
    return num_ids
