"""A conversation: its turns, the requests that it makes, and files of it. Pure.

The file is the playground's (`serve/playground/page/conversations.js`); what only that keeps, other
answers to one question among them, is left behind.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from serve.terminal.options import Options
from serve.terminal.words import shortened
from serve.wire import UNREADABLE

TITLE_LENGTH = 60


class BadFile(ValueError):
    """The message says what is wrong with it."""


class Exchange(msgspec.Struct):
    """A question and what came of it. Without an answer it is left out of later requests."""

    question: str
    thinking: str = ""
    answer: str = ""


class Conversation(msgspec.Struct):
    """`id` is the file's; times are in ms since 1970."""

    id: str
    created_ms: float
    exchanges: list[Exchange] = []
    title: str = ""
    """That of the file; empty: the first question is it."""

    def messages(self) -> list[dict[str, str]]:
        """As the API takes them, up to the last question. Thinking is left out, as the model's
        template would do."""
        *before, last = self.exchanges
        messages = []
        for it in before:
            if it.answer:
                messages.append({"role": "user", "content": it.question})
                messages.append({"role": "assistant", "content": it.answer})
        return [*messages, {"role": "user", "content": last.question}]

    def name(self) -> str:
        """What to call it in a list."""
        first = self.exchanges[0].question if self.exchanges else ""
        return shortened(self.title or first, TITLE_LENGTH)


def request_body(conversation: Conversation, options: Options) -> bytes:
    """The request for an answer to the last question, as a stream."""
    fields = options.fields() | {"stream": True, "stream_options": {"include_usage": True}}
    return msgspec.json.encode({"messages": conversation.messages(), **fields})


def valid(text: str) -> str:
    """Without what isn't Unicode: terminals and command lines let bytes through as surrogates."""
    return text.encode(errors="replace").decode()


# ---- files -------------------------------------------------------------------------------------


class _Message(msgspec.Struct, omit_defaults=True):
    role: Literal["user", "assistant"]
    content: str
    reasoning_content: str = ""


class _Saved(msgspec.Struct, kw_only=True):
    id: str = ""
    title: str = ""
    created: float | str | None = None
    updated: float | str | None = None
    messages: list[_Message]


class _File(msgspec.Struct):
    r1_serve: Literal[1]
    conversations: list[_Saved]


def to_file(conversation: Conversation, now_ms: float) -> bytes:
    messages = []
    for it in conversation.exchanges:
        messages.append(_Message("user", it.question))
        if it.answer:
            messages.append(_Message("assistant", it.answer, it.thinking))
    saved = _Saved(
        id=conversation.id,
        title=conversation.name(),
        created=conversation.created_ms,
        updated=now_ms,
        messages=messages,
    )
    return msgspec.json.format(msgspec.json.encode(_File(1, [saved])), indent=1) + b"\n"


def from_file(data: bytes, now_ms: float) -> list[Conversation]:
    """All conversations of a file. Raises `BadFile`."""
    try:
        file = msgspec.json.decode(data, type=_File)
    except UNREADABLE as exc:
        raise BadFile(f"it is no file of conversations: {exc}") from exc
    return [_conversation(it, now_ms) for it in file.conversations]


def _conversation(saved: _Saved, now_ms: float) -> Conversation:
    created_ms = saved.created if isinstance(saved.created, float | int) else now_ms
    exchanges: list[Exchange] = []
    for message in saved.messages:
        if message.role == "user":
            exchanges.append(Exchange(message.content))
        elif not exchanges or exchanges[-1].answer:
            raise BadFile("it has an answer without a question")
        else:
            exchanges[-1].thinking = message.reasoning_content
            exchanges[-1].answer = message.content
    return Conversation(saved.id, created_ms, exchanges, saved.title)
