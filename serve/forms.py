"""What the parts of a reply know of each other: who makes its choices, and who gives them an API's
form. `serve.reply` has those of OpenAI's chats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from serve.generation import Emit, Forget
from serve.usage import Phases, Usage
from serve.wire import EngineChoice


class Sampled(Protocol):
    """What makes a reply's choices: one generation, several, or a vote."""

    @property
    def usage(self) -> Usage: ...

    @property
    def prompt_token_ids(self) -> list[int] | None: ...

    @property
    def phases(self) -> list[Phases]:
        """How each generation went, that of a vote's losers too."""

    @property
    def num_failovers(self) -> int: ...

    async def run(self, emit: Emit, forget: Forget | None = None) -> None: ...

    def note(self, index: int | None = None) -> dict[str, object]:
        """What `r1` tells of one choice that has ended, or of the whole reply."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


class StreamForm(Protocol):
    """Choices → the bytes of a stream."""

    def encode(self, choices: Iterable[EngineChoice]) -> bytes:
        """The events of one read; empty when they have nothing to show yet."""

    def end(self) -> bytes:
        """The last events, not empty."""


class WholeForm(Protocol):
    """Choices → one JSON body."""

    def add(self, choices: Iterable[EngineChoice]) -> None: ...

    def clear(self, index: int) -> None:
        """Forgets a choice so far: its text begins anew."""

    def body(self, sampled: Sampled) -> bytes: ...
