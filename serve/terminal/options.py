"""What a person may set for the questions to come. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from serve.protocol import Probability, ReasoningEffort
from serve.strict import StrictError, convert
from serve.tally import MAX_VOTES

OFF = "off"
"""Leaves a field to the preset again."""


NAMES = {"thinking_token_budget": "budget", "reasoning_effort": "effort"}
"""What people call a field, where that isn't its name."""


class BadOption(ValueError):
    """The message says what would be right."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of a chat request, with the server's own ranges; None leaves one to the server."""

    model: str | None = None
    preset: str | None = None
    votes: Annotated[int, Meta(ge=1, le=MAX_VOTES)] | None = None
    thinking_token_budget: Annotated[int, Meta(ge=0)] | None = None
    reasoning_effort: ReasoningEffort | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None

    def fields(self) -> dict[str, object]:
        """Those that are set."""
        fields = msgspec.structs.asdict(self)
        return {name: value for name, value in fields.items() if value is not None}

    def by_name(self) -> dict[str, str]:
        """Those that are set, as people call them; model and preset apart."""
        fields = self.fields()
        names = {field: NAMES.get(field, field) for field in fields.keys() - {"model", "preset"}}
        return {names[field]: str(value) for field, value in fields.items() if field in names}

    def changed(self, field: str, text: str) -> Options:
        """`field` set to what `text` says. Budget and effort exclude each other. Raises
        `BadOption`."""
        changes: dict[str, object] = {field: None if text == OFF else _value(text)}
        try:
            convert(changes, Options)
        except StrictError as exc:
            raise BadOption(f"{exc}; `{OFF}` leaves it to the preset") from exc
        if field == "thinking_token_budget":
            changes["reasoning_effort"] = None
        elif field == "reasoning_effort":
            changes["thinking_token_budget"] = None
        return msgspec.structs.replace(self, **changes)


def _value(text: str) -> object:
    """A number where it is one."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
