"""One question of a script: its answer, and nothing else, goes to standard output."""

from __future__ import annotations

import asyncio
import sys
import time

from serve.terminal.client import ChatError, Client
from serve.terminal.conversation import Conversation, Exchange, request_body, valid
from serve.terminal.options import Options
from serve.terminal.reply import Piece, Reply
from serve.terminal.words import seconds

GIVE_UP_S = 600.0
"""With a server that goes on putting the question off."""


class Output:
    """Thinking, where it is shown, goes to standard error."""

    def __init__(self, *, shows_thinking: bool) -> None:
        self._shows_thinking = shows_thinking
        self._last: Piece | None = None

    def show(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if piece.kind == "thinking" and not self._shows_thinking:
                continue
            if self._last is not None and self._last.kind != piece.kind:
                self.end_line()
            self._write(piece)

    def end_line(self) -> None:
        if self._last is not None and not self._last.text.endswith("\n"):
            self._write(Piece(self._last.kind, "\n"))

    def _write(self, piece: Piece) -> None:
        stream = sys.stdout if piece.kind == "answer" else sys.stderr
        stream.write(piece.text)
        stream.flush()
        self._last = piece


async def answer(client: Client, question: str, options: Options, *, shows_thinking: bool) -> None:
    """Raises `ChatError`, also where there is no answer in the end."""
    body = request_body(Conversation("", 0, [Exchange(valid(question))]), options)
    reply = Reply(time.monotonic())
    output = Output(shows_thinking=shows_thinking)
    give_up_s = time.monotonic() + GIVE_UP_S

    async def put_off(why: ChatError, wait_s: float) -> None:
        if time.monotonic() + wait_s > give_up_s:
            raise why
        print(f"r1-serve: {why}; next try in {seconds(wait_s)}.", file=sys.stderr)
        await asyncio.sleep(wait_s)

    try:
        await client.chat_when_told(body, reply, output.show, put_off)
    finally:
        output.end_line()
    if not reply.answer:
        raise ChatError("the model said nothing after its thinking")
