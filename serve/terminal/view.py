"""One reply on the screen: thinking dimmed, then the answer, then what it took."""

from __future__ import annotations

from collections.abc import Iterable

from serve.terminal.reply import Piece, Reply
from serve.terminal.screen import DIM, RED, Screen
from serve.terminal.words import events, progress, seconds, sentence, summary


class View:
    """`show` what comes, `tick` now and then, and end it one way or the other."""

    def __init__(self, screen: Screen, reply: Reply, *, shows_thinking: bool) -> None:
        self._screen = screen
        self._reply = reply
        self._shows_thinking = shows_thinking
        self._written = False
        self._answering = False
        self._why = ""
        self._next_try_s: float | None = None

    def show(self, pieces: Iterable[Piece], now_s: float) -> None:
        for piece in pieces:
            if piece.kind == "answer":
                self._begin_answer()
                self._screen.stream(piece.text)
            elif self._shows_thinking:
                self._written = True
                self._screen.stream(piece.text, DIM)
        if self._reply.tally is not None:
            self.tick(now_s)

    def tick(self, now_s: float) -> None:
        """Says what is going on as long as nothing can be seen."""
        if self._next_try_s is not None:
            left_s = max(0, self._next_try_s - now_s)
            self._screen.status(f"next try in {left_s:.0f} s · Ctrl-C gives up")
        elif not self._written:
            self._screen.status(progress(self._reply, now_s))

    def put_off(self, why: str, next_try_s: float) -> None:
        if why != self._why:
            self._screen.say(sentence(why))
        self._why, self._next_try_s = why, next_try_s

    def tried_again(self) -> None:
        self._next_try_s = None

    def complete(self) -> None:
        self._screen.space()
        for event in events(self._reply):
            self._screen.say(event)
        self._screen.say(summary(self._reply))
        self._screen.space()

    def stopped(self) -> None:
        """By the person."""
        self._screen.space()
        self._screen.say(f"Stopped. {self._kept}")
        self._screen.space()

    def failed(self, why: str) -> None:
        self._screen.say(sentence(why), RED)
        self._screen.say(self._kept)
        self._screen.space()

    @property
    def _kept(self) -> str:
        if self._reply.answer:
            return "The answer is kept as far as it came; /retry asks again, /undo takes it back."
        return "There was no answer yet; /retry asks again."

    def _begin_answer(self) -> None:
        if self._answering:
            return
        self._answering = self._written = True
        reply = self._reply
        if reply.thinking and reply.first_s is not None and reply.answer_s is not None:
            if reply.tally is None:  # of a vote both come at once
                self._screen.say(f"(thought for {seconds(reply.answer_s - reply.first_s)})")
            self._screen.space()
