"""The items of a response's `input`: the conversation so far, as a chat's messages. Pure.

Fields that a reply's own items have and that say nothing to the model are passed over, so that
items can be sent back as they came. Forms: `openai/types/responses/response_input_item_param.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from serve.errors import InvalidRequest

_TEXT_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""Type of a part → where its text stands."""
_ROLES = ("user", "assistant", "system", "developer")


def chat_messages(
    instructions: str | None, items: str | Iterable[Mapping[str, object]]
) -> list[dict[str, object]]:
    """`instructions` and `input` as a chat has them. Raises `InvalidRequest` that names the item.

    Reasoning of earlier turns is dropped, as the model's template does. Calls are a turn of their
    own: R1's template shows none beside a text.
    """
    messages: list[dict[str, object]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    if isinstance(items, str):
        return [*messages, {"role": "user", "content": items}]
    calls: list[dict[str, object]] | None = None
    for i, item in enumerate(items):
        where, kind = f"input[{i}]", item.get("type", "message")
        if kind == "reasoning":
            continue
        if kind == "function_call":
            if calls is None:
                calls = []
                messages.append({"role": "assistant", "content": None, "tool_calls": calls})
            calls.append(_call(item, where))
            continue
        calls = None
        if kind == "message":
            messages.append(_message(item, where))
        elif kind == "function_call_output":
            output = _text(item.get("output"), f"{where}.output")
            call_id = string_in(item, "call_id", where)
            messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
        else:
            raise InvalidRequest(_unusable(where, kind), param=f"{where}.type")
    return messages


def _unusable(where: str, kind: object) -> str:
    if kind == "item_reference":
        return f"`{where}` refers to an item, but none is kept here; send the item itself"
    return (
        f"`{where}` has type `{kind}`; messages, reasoning, function calls and their outputs can "
        "be taken up here"
    )


def _message(item: Mapping[str, object], where: str) -> dict[str, object]:
    role = item.get("role")
    if role not in _ROLES:
        names = ", ".join(f"`{name}`" for name in _ROLES)
        raise InvalidRequest(
            f"`{where}.role` must be one of {names}, got `{role}`", param=f"{where}.role"
        )
    return {"role": role, "content": _text(item.get("content"), f"{where}.content")}


def _call(item: Mapping[str, object], where: str) -> dict[str, object]:
    return {
        "id": string_in(item, "call_id", where),
        "type": "function",
        "function": {key: string_in(item, key, where) for key in ("name", "arguments")},
    }


def _text(content: object, where: str) -> str:
    """A string as it is, a list of text parts joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"`{where}` must be a string or a list of parts", param=where)
    return "".join(_parts(content, where))


def _parts(parts: Iterable[object], where: str) -> Iterator[str]:
    for i, part in enumerate(parts):
        at = f"{where}[{i}]"
        if not isinstance(part, dict):
            raise InvalidRequest(f"`{at}` must be an object", param=at)
        field = _TEXT_PARTS.get(str(part.get("type")))
        if field is None:
            raise InvalidRequest(
                f"`{at}` has type `{part.get('type')}`, but the model is text-only; send "
                "`input_text` parts",
                param=at,
            )
        yield string_in(part, field, at)


def string_in(item: Mapping[str, object], key: str, where: str) -> str:
    """A string that must be there. Raises `InvalidRequest`."""
    value = item.get(key)
    if not isinstance(value, str):
        raise InvalidRequest(f"`{where}.{key}` must be a string", param=f"{where}.{key}")
    return value
