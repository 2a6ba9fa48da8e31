"""Presets: named sampling settings for kinds of work. Pure.

`PresetBook` is one reading of `configs/presets.toml`; how a request takes a preset on is
`serve.plan`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from serve.answer import AnswerForm
from serve.errors import InvalidRequest, ModelNotFound
from serve.protocol import ReasoningEffort, Sampling
from serve.settings import RouterSettings, SettingsError, config_dir, read_toml
from serve.strict import StrictError, convert, did_you_mean
from serve.tally import MAX_VOTES

SAMPLING_FIELDS = Sampling.__struct_fields__
BUDGET = "thinking_token_budget"


class Preset(Sampling, frozen=True, kw_only=True):
    """One `[presets.NAME]` table. None leaves a field to the client and the engine."""

    description: str
    source: str
    """Where the numbers come from: a model card, a paper, or our own measurement."""
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    thinking_token_budget: Annotated[int, Meta(ge=0)] | None = None
    answer_reserve_tokens: Annotated[int, Meta(ge=0)] = 1024
    """What thinking must leave of `max_tokens` for the answer; half of them at most."""
    instruction: str = ""
    """Appended to the last user turn: R1 wants no system prompt."""
    answer_form: AnswerForm = "none"
    """Where the answer stands in the text: what votes compare."""
    votes: Annotated[int, Meta(ge=1, le=MAX_VOTES)] = 1
    """Samples per request, of which the most frequent answer is the reply."""
    pinned: list[str] = msgspec.field(default_factory=list)
    """Fields that a client can't override; its own value for them is set aside."""
    bounds: dict[str, tuple[float, float]] = msgspec.field(default_factory=dict)
    """Field → the lowest and highest value that a client may ask for."""

    def value(self, field: str) -> float | int | None:
        value: float | int | None = getattr(self, field)
        return value


class PresetBook(msgspec.Struct, frozen=True, kw_only=True):
    """All presets, and what each `reasoning_effort` means in tokens of thinking."""

    presets: dict[str, Preset]
    reasoning_effort: dict[ReasoningEffort, Annotated[int, Meta(ge=0)]]

    def get(self, name: str) -> Preset:
        """Raises `InvalidRequest` that lists the presets."""
        if name not in self.presets:
            raise InvalidRequest(
                f"unknown preset `{name}`{did_you_mean(name, self.presets)}; "
                f"the presets are {', '.join(sorted(self.presets))}",
                param="preset",
            )
        return self.presets[name]


def load_presets(path: Path | None) -> PresetBook:
    """The presets in `path`, or the shipped ones. Raises `SettingsError`."""
    path = path or config_dir() / "presets.toml"
    try:
        book = convert(read_toml(path), PresetBook)
        for name, preset in book.presets.items():
            _check(name, preset)
    except StrictError as exc:
        raise SettingsError(f"{path}: {exc}") from exc
    return book


def read_presets(settings: RouterSettings) -> PresetBook:
    """The presets of a router, its default one among them. Raises `SettingsError`."""
    book = load_presets(Path(settings.presets) if settings.presets else None)
    if (default := settings.default_preset) not in book.presets:
        raise SettingsError(
            f"`router.default_preset` = `{default}` is no preset"
            f"{did_you_mean(default, book.presets)}"
        )
    return book


def _check(name: str, preset: Preset) -> None:
    fields = (*SAMPLING_FIELDS, "max_tokens", BUDGET)
    for field in (*preset.pinned, *preset.bounds):
        if field not in fields:
            raise StrictError(
                f"preset `{name}` pins or bounds `{field}`, which isn't one of {', '.join(fields)}"
            )
    if preset.votes > 1 and (preset.answer_form == "none" or preset.temperature == 0):
        raise StrictError(
            f"preset `{name}` has votes, so it needs an answer_form and a temperature above 0"
        )
    for field, (low, high) in preset.bounds.items():
        value = preset.value(field)
        if low > high or (value is not None and not low <= value <= high):
            raise StrictError(f"preset `{name}`: its own {field} = {value} is not in {low}..{high}")


def resolve_model(
    asked: str | None, preset: str | None, served: Iterable[str], book: PresetBook
) -> tuple[str, str | None]:
    """(served model, preset named by the request or None) of `model` and the body's `preset`.

    `model` is a served name or `name:preset`. Raises `ModelNotFound`, or `InvalidRequest` where
    `model` and `preset` name different presets.
    """
    names = sorted(served)
    if asked is None:
        return names[0], preset
    if asked in names:
        return asked, preset
    name, _, suffix = asked.rpartition(":")
    if name in names and suffix in book.presets:
        if preset not in (None, suffix):
            raise InvalidRequest(
                f"`model` names the preset `{suffix}` and `preset` says `{preset}`; send one",
                param="preset",
            )
        return name, suffix
    if name in names:
        book.get(suffix)
    raise ModelNotFound(
        f"unknown model `{asked}`{did_you_mean(asked, names)}; served here: {', '.join(names)} "
        f"(also as `{names[0]}:PRESET`)",
        param="model",
    )
