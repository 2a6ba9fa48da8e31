"""Anthropic's Messages API: what requests mean, and what replies say."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import InvalidRequest
from serve.messages import count_tokens_chat, messages_chat
from serve.messages_content import SIGNATURE
from serve.messages_reply import MessageStream, WholeMessage, error_body
from serve.plan import Plan
from serve.reply import Head
from serve.usage import Usage
from serve.wire import EngineChoice, EngineDelta

HI = {"role": "user", "content": "hi"}


def asking(**fields: Any) -> dict[str, Any]:
    return {"max_tokens": 2048, "messages": [HI], **fields}


# --- requests -----------------------------------------------------------------------------------


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


CALL = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "2"}
CHAT_CALL = {
    "id": "toolu_1",
    "type": "function",
    "function": {"name": "add", "arguments": '{"a":1}'},
}
CACHED = {"cache_control": {"type": "ephemeral"}}
TURNS: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [
    (
        [{"role": "user", "content": [text("a", **CACHED), text("b")]}],
        [{"role": "user", "content": "a\n\nb"}],
    ),
    (
        [
            HI,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": SIGNATURE},
                    {"type": "redacted_thinking", "data": "x"},
                    text("ho", citations=None),
                ],
            },
            HI,
        ],
        [HI, {"role": "assistant", "content": "ho"}, HI],
    ),
    (
        [
            {"role": "assistant", "content": [text("let me see"), CALL]},
            {"role": "user", "content": [RESULT, text("so?")]},
        ],
        [
            {"role": "assistant", "content": "let me see"},
            {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]},
            {"role": "tool", "tool_call_id": "toolu_1", "content": "2"},
            {"role": "user", "content": "so?"},
        ],
    ),
    (
        [{"role": "user", "content": [RESULT | {"content": [text("a"), text("b")]} | CACHED]}],
        [{"role": "tool", "tool_call_id": "toolu_1", "content": "a\n\nb"}],
    ),
    (
        [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}],
        [{"role": "tool", "tool_call_id": "t", "content": ""}],
    ),
    ([{"role": "system", "content": "s"}, HI], [{"role": "system", "content": "s"}, HI]),
]


@pytest.mark.parametrize(("turns", "messages"), TURNS)
def test_turns_become_a_chats_messages(
    turns: list[dict[str, Any]], messages: list[dict[str, Any]]
) -> None:
    """Blocks are joined, calls and results are messages of their own, thinking is dropped."""
    assert messages_chat(asking(messages=turns))[1]["messages"] == messages


TOOL = {"name": "add", "description": "adds", "input_schema": {"type": "object"}}
CHAT_TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}},
}
SCHEMA = {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("fields", "chat"),
    [
        ({}, {}),
        ({"model": "m:math", "temperature": 1, "top_p": 0.5, "top_k": 3, "stream": True}, None),
        ({"preset": "math", "votes": 4, "min_p": 0.1, "seed": 7, "recover": False}, None),
        ({"system": "be kind"}, {"messages": [{"role": "system", "content": "be kind"}, HI]}),
        (
            {"system": [text("a", **CACHED), text("b")]},
            {"messages": [{"role": "system", "content": "a\n\nb"}, HI]},
        ),
        ({"stop_sequences": ["x"]}, {"stop": ["x"]}),
        ({"stop": "x"}, {"stop": "x"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 64}}, {"thinking_token_budget": 64}),
        ({"thinking": {"type": "enabled"}}, {}),
        ({"thinking": {"type": "adaptive"}}, {}),
        (
            {"thinking": {"type": "disabled"}},
            {"thinking_token_budget": 0, "reasoning_format": "hidden"},
        ),
        (
            {"thinking": {"type": "adaptive", "display": "omitted"}},
            {"reasoning_format": "hidden"},
        ),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "none"}, None),
        (
            {
                "output_config": {"effort": "low"},
                "thinking": {"type": "enabled", "budget_tokens": 9},
            },
            {"thinking_token_budget": 9},
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "output", "schema": SCHEMA},
                }
            },
        ),
        ({"tools": [TOOL | CACHED | {"type": "custom"}]}, {"tools": [CHAT_TOOL]}),
        ({"tools": []}, {}),
        ({"tool_choice": {"type": "auto"}}, {}),
        *(
            ({"tools": [TOOL], "tool_choice": choice}, {"tools": [CHAT_TOOL], **chat})
            for choice, chat in [
                ({"type": "auto"}, {"tool_choice": "auto"}),
                ({"type": "any"}, {"tool_choice": "required"}),
                ({"type": "none"}, {"tool_choice": "none"}),
                (
                    {"type": "tool", "name": "add", "disable_parallel_tool_use": True},
                    {
                        "tool_choice": {"type": "function", "function": {"name": "add"}},
                        "parallel_tool_calls": False,
                    },
                ),
            ]
        ),
        ({"service_tier": "flex"}, None),
        ({"metadata": {"user_id": "u"}}, None),
        ({"speed": "fast", "inference_geo": "eu", **CACHED}, {}),
    ],
)
def test_a_request_means_a_chat(fields: dict[str, Any], chat: dict[str, Any] | None) -> None:
    """None: the fields are the same in both."""
    asked, data = messages_chat(asking(**fields))
    assert data == asking(**(fields if chat is None else chat))
    assert asked.max_tokens == 2048


def in_content(block: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [HI, {"role": "user", "content": [text("a"), block]}]}


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"max_tokens": None}, "max_tokens", "`max_tokens` is missing"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"messages": []}, "messages", "is empty"),
        ({"max_token": 5}, "max_token", "did you mean `max_tokens`"),
        ({"stop_sequence": ["x"]}, "stop_sequence", "did you mean `stop_sequences`"),
        ({"n": 2}, "n", "unknown field `n`"),
        ({"thinking": {"budget": 5}}, "thinking.budget", "did you mean `budget_tokens`"),
        ({"thinking": {"type": "on"}}, "thinking.type", "invalid enum value 'on'"),
        ({"temperature": 3}, "temperature", "between 0 and 2"),
        ({"stop_sequences": [""]}, "stop_sequences", "empty string"),
        ({"stop_sequences": ["a"], "stop": "b"}, "stop_sequences", "`stop`"),
        (
            {"thinking": {"type": "disabled", "budget_tokens": 5}},
            "thinking.budget_tokens",
            "doesn't go with `thinking.type: disabled`",
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 5}, "thinking_token_budget": 6},
            "thinking.budget_tokens",
            "`thinking_token_budget`",
        ),
        (
            {"output_config": {"effort": "low"}, "reasoning_effort": "low"},
            "output_config.effort",
            "`reasoning_effort`",
        ),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name", "is missing"),
        (
            {"tools": [TOOL, {"type": "web_search_20260209", "name": "web_search"}]},
            "tools[1].type",
            "Anthropic runs itself",
        ),
        ({"tools": [TOOL | {"parameters": {}}]}, "tools[0].parameters", "unknown field"),
        ({"tools": [{"name": "a"}]}, "tools[0]", "missing required field `input_schema`"),
        (
            {"messages": [HI, {"role": "assistant", "content": "The answer is ("}]},
            "messages",
            "end with a user turn",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "'tool'"),
        ({"messages": [{"role": "user"}]}, "messages[0]", "required field `content`"),
        (in_content({"type": "image", "source": {}}), "messages[1].content[1]", "text-only"),
        (in_content({"type": "document", "source": {}}), "messages[1].content[1]", "text-only"),
        (in_content(CALL), "messages[1].content[1]", "takes `text`, `tool_result`"),
        (in_content({"type": "text", "txt": "a"}), "messages[1].content[1].txt", "mean `text`"),
        (in_content({"type": "text", "text": 5}), "messages[1].content[1].text", "expected `str`"),
        (
            in_content(RESULT | {"content": [{"type": "image"}]}),
            "messages[1].content[1].content[0]",
            "has type `image`",
        ),
        ({"system": [{"type": "image"}]}, "system[0]", "has type `image`"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as failure:
        messages_chat(asking(**fields))
    assert failure.value.param == param
    assert says in failure.value.message


def test_counting_takes_a_message_without_its_limits() -> None:
    asked = count_tokens_chat({"model": "m", "system": "s", "messages": [HI], "tools": [TOOL]})
    assert [message.content for message in asked.messages] == ["s", "hi"]
    assert asked.tools == [CHAT_TOOL]
    with pytest.raises(InvalidRequest, match="unknown field `max_tokens`"):
        count_tokens_chat(asking())


# --- replies ------------------------------------------------------------------------------------


class Made:
    """A generation that has been made."""

    usage = Usage(prompt_tokens=9, completion_tokens=5, reasoning_tokens=3, cached_tokens=4)
    prompt_token_ids = None
    num_failovers = 0

    def note(self, index: int | None = None) -> dict[str, object]:
        return {"recovered": "length"}


HEAD = Head(id="msg_1", created=0, model="m", reasoning_fields=[])


def plan(**fields: Any) -> Plan:
    fields = {"model": "m", "preset": "chat", "body": {}, "max_tokens": 9, **fields}
    return Plan(stream=True, num_choices=1, include_usage=False, **fields)


def folded(stream: bytes) -> dict[str, Any]:
    """The message that a stream's events make, by Anthropic's rules."""
    message: dict[str, Any] = {}
    arguments: dict[int, str] = {}
    open_index: int | None = None
    for lines in stream.decode().removesuffix("\n\n").split("\n\n"):
        name, data = lines.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert open_index is None
                open_index = event["index"]
                assert open_index == len(message["content"])
                message["content"].append(event["content_block"])
            case "content_block_delta":
                assert event["index"] == open_index
                block, delta = message["content"][open_index], event["delta"]
                kind = delta.pop("type")
                if kind == "input_json_delta":
                    arguments[open_index] = arguments.get(open_index, "") + delta["partial_json"]
                else:
                    ((field, piece),) = delta.items()
                    block[field] += piece
            case "content_block_stop":
                assert event["index"] == open_index
                open_index = None
            case "message_delta":
                assert open_index is None
                message |= event["delta"] | {"usage": event["usage"], "r1": event["r1"]}
    for index, value in arguments.items():
        message["content"][index]["input"] = json.loads(value)
    assert event["type"] == "message_stop"
    return message


def cut(value: str, marks: Iterable[int]) -> list[str]:
    ends = sorted({mark % (len(value) + 1) for mark in marks} | {0, len(value)})
    return [value[a:b] for a, b in itertools.pairwise(ends)]


def delta(**fields: Any) -> EngineChoice:
    return EngineChoice(0, EngineDelta(**fields))


def call(index: int, **fields: Any) -> EngineChoice:
    return delta(tool_calls=[msgspec.Raw(json.dumps({"index": index, **fields}).encode())])


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
MARKS = st.lists(st.integers(0, 40), max_size=6)


@given(
    trace=TEXTS,
    answer=TEXTS,
    inputs=st.lists(st.dictionaries(TEXTS, TEXTS, max_size=2), max_size=3),
    marks=MARKS,
    read_size=st.integers(1, 4),
    hidden=st.booleans(),
)
def test_a_stream_makes_the_whole_message_however_it_was_cut(
    trace: str,
    answer: str,
    inputs: list[dict[str, str]],
    marks: list[int],
    read_size: int,
    hidden: bool,
) -> None:
    """Blocks, text, stop reason, usage and `r1` are the same, in any number of reads."""

    def choices() -> list[EngineChoice]:
        said = [delta(role="assistant", content="")]
        said += [delta(reasoning=piece) for piece in cut(trace, marks)]
        said += [delta(content=piece) for piece in cut(answer, marks)]
        for index, value in enumerate(inputs):
            said.append(call(index, id=f"c{index}", function={"name": "f", "arguments": ""}))
            pieces = cut(json.dumps(value), marks)
            said += [call(index, function={"arguments": piece}) for piece in pieces]
        said[-1].finish_reason = "tool_calls" if inputs else "stop"
        return said

    asked = plan(reasoning_format="hidden" if hidden else "parsed")
    stream, whole = MessageStream(asked, HEAD, Made()), WholeMessage(asked, HEAD)  # type: ignore[arg-type]
    said, events = choices(), b""
    for at in range(0, len(said), read_size):
        events += stream.encode(said[at : at + read_size])
    whole.add(choices())
    message = json.loads(whole.body(Made()))  # type: ignore[arg-type]
    assert folded(events + stream.end()) == message
    blocks: list[dict[str, Any]] = []
    if trace and not hidden:
        blocks.append({"type": "thinking", "thinking": trace, "signature": SIGNATURE})
    if answer:
        blocks.append({"type": "text", "text": answer})
    for index, value in enumerate(inputs):
        blocks.append({"type": "tool_use", "id": f"c{index}", "name": "f", "input": value})
    assert message["content"] == blocks
    assert message["usage"]["input_tokens"] + message["usage"]["cache_read_input_tokens"] == 9


@pytest.mark.parametrize(
    ("finish", "stop"),
    [
        (("stop", None), ("end_turn", None)),
        (("stop", 151643), ("end_turn", None)),
        (("stop", "x"), ("stop_sequence", "x")),
        (("length", None), ("max_tokens", None)),
        (("repetition", None), ("max_tokens", None)),
        (("tool_calls", None), ("tool_use", None)),
        ((None, None), ("end_turn", None)),
    ],
)
def test_stop_reasons(finish: tuple[Any, Any], stop: tuple[Any, Any]) -> None:
    whole = WholeMessage(plan(), HEAD)
    said = delta(content="x")
    said.finish_reason, said.stop_reason = finish
    whole.add([said])
    message = json.loads(whole.body(Made()))  # type: ignore[arg-type]
    assert (message["stop_reason"], message["stop_sequence"]) == stop


def test_a_call_that_was_forced_or_cut_off() -> None:
    """One that was forced ends in `stop`; arguments that are no JSON stay to be seen."""
    whole = WholeMessage(plan(), HEAD)
    said = call(0, id="c", function={"name": "f", "arguments": '{"a": '})
    said.finish_reason = "stop"
    whole.add([said])
    message = json.loads(whole.body(Made()))  # type: ignore[arg-type]
    assert message["stop_reason"] == "tool_use"
    assert message["content"][0]["input"] == {"INVALID_JSON": '{"a": '}


def test_a_whole_message_begins_anew() -> None:
    whole = WholeMessage(plan(), HEAD)
    whole.add([delta(reasoning="no")])
    whole.clear(0)
    whole.add([delta(content="yes")])
    message = json.loads(whole.body(Made()))  # type: ignore[arg-type]
    assert message["content"] == [{"type": "text", "text": "yes"}]
    assert message["r1"]["recovered"] == "length"


def test_an_error_in_anthropics_form() -> None:
    body = json.loads(error_body(InvalidRequest("no", param="x")))
    assert body == {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
