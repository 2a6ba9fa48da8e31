"""Bodies of the Responses API as chats: what each field becomes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from serve.errors import InvalidRequest
from serve.protocol import ChatRequest
from serve.responses import as_chat, named_as_asked, parse_responses
from serve.tally import Votes

USER = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}
CHAT_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "name": "f", "description": "d", "parameters": {}, "strict": True}
SCHEMA = {"type": "object"}


def translated(**fields: Any) -> tuple[ChatRequest, dict[str, Any]]:
    body = {"input": "hi", **fields}
    asked = parse_responses(body)
    with named_as_asked():
        return as_chat(asked, body)


@pytest.mark.parametrize(
    ("fields", "chat"),
    [
        ({"model": "m:math", "stream": True}, {"model": "m:math", "stream": True}),
        ({"max_output_tokens": 7}, {"max_completion_tokens": 7}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"effort": "xhigh"}}, {"reasoning_effort": "high"}),
        ({"reasoning": {"effort": None}, "text": {"verbosity": "low"}}, {}),
        ({"text": {"format": {"type": "text"}}}, {}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"response_format": {"type": "json_object"}},
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA},
                }
            },
        ),
        (
            {"tools": [{**TOOL, "defer_loading": None}], "parallel_tool_calls": False},
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {k: v for k, v in TOOL.items() if k != "type"},
                    }
                ],
                "parallel_tool_calls": False,
            },
        ),
        ({"tools": [], "tool_choice": "auto"}, {}),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        (
            {"tool_choice": {"type": "function", "name": "f"}},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
        (
            {"preset": "math", "thinking_token_budget": 9, "votes": 3, "recover": False},
            {"preset": "math", "thinking_token_budget": 9, "votes": 3, "recover": False},
        ),
        ({"top_k": 5, "seed": 1, "stop": ["x"]}, {"top_k": 5, "seed": 1, "stop": ["x"]}),
        ({"structured_outputs": {"regex": "a"}}, {"structured_outputs": {"regex": "a"}}),
        ({"store": True, "include": ["reasoning.encrypted_content"]}, {"store": True}),
        ({"truncation": "disabled", "stream_options": {"include_obfuscation": False}}, {}),
        ({"previous_response_id": None, "background": False}, {}),
    ],
)
def test_each_field_has_its_chats_name(fields: dict[str, Any], chat: dict[str, Any]) -> None:
    _, data = translated(**fields)
    assert data == {"messages": [USER], **chat}


def test_what_is_ours_is_typed_too() -> None:
    asked, _ = translated(votes={"n": 3, "strategy": "first_k"}, service_tier="flex")
    assert asked.votes == Votes(n=3, strategy="first_k")
    assert asked.service_tier == "flex"


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ([USER], [USER]),
        ([{**USER, "type": "message"}], [USER]),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": t} for t in "ab"]}],
            [{"role": "user", "content": "ab"}],
        ),
        ([{"role": "developer", "content": "d"}], [{"role": "developer", "content": "d"}]),
        (
            [
                {"type": "reasoning", "id": "rs_1", "summary": [], "content": []},
                {
                    "type": "message",
                    "id": "msg_1",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": "yes", "annotations": []}],
                },
            ],
            [{"role": "assistant", "content": "yes"}],
        ),
        (
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
            [{"role": "assistant", "content": "no"}],
        ),
        (
            [CALL, {"type": "function_call_output", "call_id": "c1", "output": "2"}],
            [
                {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "2"},
            ],
        ),
        (
            [{"role": "assistant", "content": "let me see"}, CALL, CALL],
            [
                {"role": "assistant", "content": "let me see"},
                {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL, CHAT_CALL]},
            ],
        ),
    ],
)
def test_items_become_messages(items: list[Any], messages: list[Any]) -> None:
    """Reasoning is left out, calls side by side share a turn, parts are joined."""
    _, data = translated(input=items)
    assert data["messages"] == messages


def test_instructions_come_first() -> None:
    _, data = translated(instructions="be brief")
    assert data["messages"] == [{"role": "system", "content": "be brief"}, USER]


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the earlier items"),
        ({"conversation": {"id": "c"}}, "conversation", "send its items"),
        ({"background": True}, "background", "wait for the reply"),
        ({"prompt": {"id": "p"}}, "prompt", "send its text"),
        ({"truncation": "auto"}, "truncation", "`disabled`"),
        ({"top_logprobs": 2}, "top_logprobs", "/v1/chat/completions"),
        ({"include": ["message.output_text.logprobs"]}, "include", "/v1/chat/completions"),
        ({"include": ["everything"]}, "include[0]", "everything"),
        ({"messages": [USER]}, "messages", "`input`"),
        ({"max_tokens": 5}, "max_tokens", "`max_output_tokens`"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "`reasoning.effort`"),
        ({"response_format": {}}, "response_format", "`text.format`"),
        ({"max_output_token": 5}, "max_output_token", "did you mean `max_output_tokens`"),
        ({"reasoning": {"efort": "low"}}, "reasoning.efort", "did you mean `effort`"),
        ({"n": 2}, "n", "unknown field `n`"),
        ({"temperature": 5}, "temperature", "between 0 and 2"),
        ({"max_output_tokens": 0}, "max_output_tokens", "at least 1"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "huge"),
        ({"input": []}, "input", "`input` is empty"),
        ({"input": 3}, "input", "str"),
        ({"input": [{"role": "tool", "content": ""}]}, "input[0].role", "`user`"),
        ({"input": [{"role": "user"}]}, "input[0].content", "a string or a list"),
        ({"input": [USER, {"type": "item_reference", "id": "x"}]}, "input[1].type", "itself"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type", "web_search_call"),
        ({"input": [{**CALL, "arguments": {}}]}, "input[0].arguments", "a string"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0]",
            "text-only",
        ),
        ({"input": [{"role": "user", "content": ["a"]}]}, "input[0].content[0]", "an object"),
        ({"tools": [TOOL, {"type": "web_search"}]}, "tools[1].type", "only `function`"),
        ({"tools": [{"type": "function", "function": TOOL}]}, "tools[0].name", "not in `function`"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type", "file_search"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name", "a string"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "grammar"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n"}}},
            "text.format.schema",
            "`json_schema` needs it",
        ),
        (
            {"reasoning": {"effort": "low"}, "thinking_token_budget": 5},
            "reasoning.effort",
            "`reasoning.effort` and `thinking_token_budget`",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_its_name_here(
    fields: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translated(**fields)
    assert caught.value.param == param
    assert says in caught.value.message
