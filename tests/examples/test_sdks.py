"""The SDKs and curl, over real vLLM with the demo model."""

from __future__ import annotations

import json
import re

import pytest

from tests.examples.support import example

pytestmark = pytest.mark.engine

TRACE = "ones: 7+5+0=12, write 2, carry 1"
ANSWER = "47+85=132. The answer is \\boxed{132}."


async def test_openai_shows_thinking_then_the_answer_votes_and_an_error(demo: str) -> None:
    done = await example("openai_sdk.py", url=demo)
    assert (done.status, done.err) == (0, "")
    thinking, _, rest = done.out.partition("[answer]\n")
    assert thinking.startswith("\n[thinking]\n")
    assert TRACE in thinking
    assert rest.startswith(ANSWER)
    tokens = re.search(r"\[(\d+) tokens, (\d+) of them thinking\]", rest)
    assert tokens is not None
    assert 0 < int(tokens[2]) < int(tokens[1])
    assert "[reasoning_effort none] 0 tokens of thinking" in rest
    assert re.search(r"\[votes\] \d counted, \d+% for the answer\n\d × 132\n", rest)
    assert rest.endswith(
        "[400] unknown_parameter: unknown field `thinking_token_bugdet`; "
        "did you mean `thinking_token_budget`?\n"
    )


async def test_langchain_keeps_the_thinking(demo: str) -> None:
    done = await example("langchain_chat.py", url=demo)
    assert (done.status, done.err) == (0, "")
    thinking, _, rest = done.out.partition("[text]\n")
    assert thinking.startswith("\n[reasoning]\n")
    assert TRACE in thinking
    assert rest.startswith(ANSWER)
    assert re.search(r"\[[1-9]\d* tokens of thinking\]", rest)
    assert re.search(r"^\[chain\] .*132", rest, re.M)
    assert re.search(r"^\[votes\] \[\{'answer': '132', 'count': \d\}", rest, re.M)


async def test_anthropic_shows_thinking_then_text(demo: str) -> None:
    done = await example("anthropic_sdk.py", "What is 47 + 85?", url=demo)
    assert (done.status, done.err) == (0, "")
    thinking, _, rest = done.out.partition("[text]\n")
    assert thinking.startswith("\n[thinking]\n")
    assert TRACE in thinking
    assert rest.startswith(ANSWER)
    assert re.search(r"^\[votes\] \[\{'answer': '132', 'count': \d\}", rest, re.M)
    assert re.search(r"^\[count_tokens\] [1-9]", rest, re.M)


async def test_curl_gets_every_api(demo: str) -> None:
    done = await example("curl.sh", url=demo)
    assert (done.status, done.err) == (0, "")
    shown = dict(re.findall(r"^# (\w+)\n(.*?)(?=^# |\Z)", done.out, re.M | re.S))
    stream = shown.pop("stream")
    replies = {name: json.loads(text) for name, text in shown.items()}
    assert replies["models"]["data"][0]["id"] == "r1-demo"
    assert "math" in {it["id"] for it in replies["presets"]["data"]}
    assert replies["chat"]["choices"][0]["message"]["content"] == ANSWER
    assert replies["votes"]["r1"]["votes"]["answers"][0]["answer"] == "132"
    assert [it["type"] for it in replies["responses"]["output"]] == ["reasoning", "message"]
    assert [it["type"] for it in replies["messages"]["content"]] == ["thinking", "text"]
    assert replies["tokenize"]["count"] == len(replies["tokenize"]["tokens"])
    events = re.findall(r"^data: (.*)$", stream, re.M)
    assert events.pop() == "[DONE]"
    chunks = [json.loads(it) for it in events]
    assert chunks[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    deltas = [it["choices"][0]["delta"] for it in chunks[:-1]]
    thinking = [bool(it.get("reasoning_content")) for it in deltas]
    answer = [bool(it.get("content")) for it in deltas]
    assert max(at for at, it in enumerate(thinking) if it) < answer.index(True)


async def test_curl_ends_with_an_error_where_the_server_says_one(demo: str) -> None:
    done = await example("curl.sh", "no-such-example", url=demo)
    assert done.status == 2
    assert "no example no-such-example" in done.err
