"""A conversation as the engine gets it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from serve.protocol import Message


def engine_messages(
    messages: Iterable[Message], instruction: str, merge_system: bool
) -> list[dict[str, object]]:
    """The turns as the engine gets them: no trace in earlier turns, system text merged into the
    first user turn where `merge_system`, `instruction` appended to the last user turn."""
    turns = [_turn(message) for message in messages]
    if merge_system:
        system = [str(turn["content"]) for turn in turns if turn["role"] == "system"]
        turns = [turn for turn in turns if turn["role"] != "system"]
        _prepend(turns, "\n\n".join(text for text in system if text))
    if instruction:
        users = [turn for turn in turns if turn["role"] == "user"]
        if users:
            users[-1]["content"] = f"{users[-1]['content']}\n\n{instruction}"
        else:
            turns.append({"role": "user", "content": instruction})
    return turns


def _turn(message: Message) -> dict[str, object]:
    role = "system" if message.role == "developer" else message.role
    turn: dict[str, object] = {"role": role, "content": message.content}
    for field in ("name", "tool_calls", "tool_call_id"):
        value = getattr(message, field)
        if value is not None:
            turn[field] = value
    return turn


def _prepend(turns: list[dict[str, object]], system: str) -> None:
    if not system:
        return
    first = next((turn for turn in turns if turn["role"] == "user"), None)
    if first is None:
        turns.insert(0, {"role": "user", "content": system})
    else:
        first["content"] = f"{system}\n\n{first['content']}"
