"""The forms of a response: streams and whole replies carry the same, and OpenAI's types fit."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent

from serve.errors import UpstreamError
from serve.plan import Plan
from serve.reply import Head
from serve.responses import ResponsesRequest
from serve.responses_output import Output
from serve.responses_reply import ResponseFrame, ResponseStream, WholeResponse
from serve.usage import Usage
from serve.wire import EngineChoice, EngineDelta

HEAD = Head(id="resp_00", created=1, model="m", reasoning_fields=["reasoning"])
TYPED: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
Piece = tuple[str, Any]


class Sampled:
    """What a reply asks of its generation once it has ended."""

    usage = Usage(prompt_tokens=3, completion_tokens=5, reasoning_tokens=2, cached_tokens=1)

    def note(self, index: int | None = None) -> dict[str, object]:
        return {"failovers": 1}


def plan(**fields: Any) -> Plan:
    made: dict[str, Any] = {
        "model": "m",
        "preset": "chat",
        "body": {"temperature": 0.6, "max_tokens": 9},
        "stream": True,
        "num_choices": 1,
        "include_usage": False,
        "max_tokens": 9,
    }
    return Plan(**made | fields)


def call(index: int, **function: str) -> msgspec.Raw:
    known = {"id": f"call_{index}"} if "name" in function else {}
    return msgspec.Raw(msgspec.json.encode({"index": index, "function": function, **known}))


def choice(finish_reason: str | None = None, **delta: Any) -> EngineChoice:
    return EngineChoice(0, EngineDelta(**delta), finish_reason)


def streamed(reads: list[list[EngineChoice]], **fields: Any) -> list[dict[str, Any]]:
    """Every event of a stream, each checked against the SDK's type and its own name."""
    frame = ResponseFrame(plan(**fields), HEAD, ResponsesRequest(input="hi"))
    stream = ResponseStream(frame, Output(plan(**fields), HEAD), Sampled())  # type: ignore[arg-type]
    text = b"".join(stream.encode(read) for read in reads) + stream.end()
    return events_in(text)


def events_in(text: bytes) -> list[dict[str, Any]]:
    events = []
    for number, block in enumerate(text.decode().removesuffix("\n\n").split("\n\n")):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        TYPED.validate_python(event)
        events.append(event)
    return events


def whole(reads: list[list[EngineChoice]], **fields: Any) -> dict[str, Any]:
    form = WholeResponse(plan(**fields), HEAD, ResponsesRequest(input="hi"))
    for read in reads:
        form.add(read)
    body: dict[str, Any] = json.loads(form.body(Sampled()))  # type: ignore[arg-type]
    Response.model_validate(body)
    return body


def said(events: list[dict[str, Any]]) -> dict[int, str]:
    """The deltas of each item, joined."""
    texts: dict[int, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            texts[event["output_index"]] = texts.get(event["output_index"], "") + event["delta"]
    return texts


def text_of(item: dict[str, Any]) -> str:
    return str(item["arguments"] if "arguments" in item else item["content"][0]["text"])


def replies() -> st.SearchStrategy[tuple[list[Piece], str]]:
    """What an engine may say: a trace, an answer, calls; and why it ends."""
    texts = st.lists(st.text(min_size=1, max_size=4), max_size=4)
    return st.tuples(
        st.builds(
            lambda traces, answers, calls: (
                [("reasoning", text) for text in traces]
                + [("content", text) for text in answers]
                + [(i, text) for i, parts in enumerate(calls) for text in ("", *parts)]
            ),
            texts,
            texts,
            st.lists(texts, max_size=3),
        ),
        st.sampled_from(["stop", "tool_calls", "length", "repetition"]),
    )


def reads_of(pieces: list[Piece], finish: str, sizes: list[int]) -> list[list[EngineChoice]]:
    """The pieces in reads of the given sizes, in turn."""
    choices, begun = [], set()
    for kind, text in pieces:
        if isinstance(kind, str):
            choices.append(choice(**{kind: text}))
        else:
            name = {} if kind in begun else {"name": f"f{kind}"}
            begun.add(kind)
            choices.append(choice(tool_calls=[call(kind, arguments=text, **name)]))
    choices.append(choice(finish))
    reads = []
    for i in range(len(choices)):
        reads.append(choices[: sizes[i % len(sizes)]])
        choices = choices[sizes[i % len(sizes)] :]
    return [read for read in reads if read]


SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(replies(), SIZES, SIZES)
def test_a_stream_says_what_the_whole_reply_says(
    reply: tuple[list[Piece], str], sizes: list[int], other_sizes: list[int]
) -> None:
    """Cut into reads in any two ways: the deltas add up to the items, which are the whole reply's,
    in the last event and in the events that end them."""
    events = streamed(reads_of(*reply, sizes))
    body = whole(reads_of(*reply, other_sizes))
    assert events[-1] == {
        "type": f"response.{body['status']}",
        "response": body,
        "sequence_number": len(events) - 1,
    }
    texts = said(events)
    assert [texts.get(i, "") for i in range(len(body["output"]))] == [
        text_of(item) for item in body["output"]
    ]
    done = {
        e["output_index"]: e["item"] for e in events if e["type"] == "response.output_item.done"
    }
    assert [done[i] for i in range(len(done))] == body["output"]


@given(replies(), SIZES)
def test_every_item_begins_and_ends_once(reply: tuple[list[Piece], str], sizes: list[int]) -> None:
    """In order of their numbers, nothing is said of one that hasn't begun or has ended, and the
    trace ends before anything else begins."""
    open_items: dict[int, str] = {}
    num_begun = 0
    for event in streamed(reads_of(*reply, sizes)):
        at = event.get("output_index")
        if event["type"] == "response.output_item.added":
            assert at == num_begun
            assert "reasoning" not in open_items.values()
            open_items[at] = event["item"]["type"]
            num_begun += 1
        elif event["type"] == "response.output_item.done":
            del open_items[at]
        elif at is not None:
            assert at in open_items
    assert not open_items


def test_the_order_of_events() -> None:
    reads = [[choice(reasoning="a")], [choice(content="b")], [choice("stop")]]
    assert [event["type"] for event in streamed(reads)] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_the_whole_reply_is_the_sdks() -> None:
    body = whole([[choice(reasoning="a"), choice(content="b"), choice("stop")]])
    response = Response.model_validate(body)
    assert response.output_text == "b"
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 1
    assert response.usage.output_tokens_details.reasoning_tokens == 2
    assert (response.temperature, response.max_output_tokens) == (0.6, 9)
    assert body["r1"]["failovers"] == 1
    assert body["store"] is False


@pytest.mark.parametrize(
    ("finish", "status", "details"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("repetition", "incomplete", None),
    ],
)
def test_what_was_cut_is_incomplete(finish: str, status: str, details: object) -> None:
    """The reply and its last item; items before it are complete."""
    body = whole([[choice(reasoning="a"), choice(content="b"), choice(finish)]])
    assert (body["status"], body["incomplete_details"]) == (status, details)
    assert [item["status"] for item in body["output"]] == ["completed", status]


def test_a_hidden_trace_is_no_item() -> None:
    reads = [[choice(reasoning="a"), choice(content="b"), choice("stop")]]
    fields: dict[str, Any] = {"reasoning_format": "hidden"}
    assert [item["type"] for item in whole(reads, **fields)["output"]] == ["message"]
    assert said(streamed(reads, **fields)) == {0: "b"}


def test_a_text_begun_anew_forgets_what_came_before() -> None:
    form = WholeResponse(plan(), HEAD, ResponsesRequest(input="hi"))
    form.add([choice(reasoning="x", content="y")])
    form.clear(0)
    form.add([choice(content="z"), choice("stop")])
    output = json.loads(form.body(Sampled()))["output"]  # type: ignore[arg-type]
    assert [(item["type"], text_of(item)) for item in output] == [("message", "z")]


@pytest.mark.parametrize("begun", [True, False])
def test_a_stream_that_breaks_off_says_so_in_every_form(begun: bool) -> None:
    """An `error` event with the fields where the reference has them and where SDKs look for them,
    then the failed response with what had come."""
    frame = ResponseFrame(plan(), HEAD, ResponsesRequest(input="hi"))
    stream = ResponseStream(frame, Output(plan(), HEAD), Sampled())  # type: ignore[arg-type]
    text = stream.encode([choice(content="b")]) if begun else b""
    *_, error, failed = events_in(text + stream.fail(UpstreamError("the engine broke off")))
    assert (error["message"], error["code"]) == ("the engine broke off", "engine_error")
    assert error["error"] == {
        "message": "the engine broke off",
        "type": "server_error",
        "param": None,
        "code": "engine_error",
    }
    response = failed["response"]
    assert (failed["type"], response["status"]) == ("response.failed", "failed")
    assert response["error"] == {"code": "server_error", "message": "the engine broke off"}
    assert [text_of(item) for item in response["output"]] == (["b"] if begun else [])
