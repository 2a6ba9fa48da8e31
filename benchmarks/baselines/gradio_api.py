"""A client of Gradio's HTTP API (version 6): asks one function of an app and waits for its result.

POST `/gradio_api/call/NAME` with `{"data": [inputs]}` gives an `event_id`; GET
`/gradio_api/call/NAME/EVENT_ID` gives server-sent events, of which `complete` holds the outputs,
`error` says that the function failed and `heartbeat` nothing. Source: Gradio's guide "Querying
Gradio Apps with Curl".

Nothing of a reply arrives before all of it. So the first text is there when the last is, and the
record says so: TTFT is the whole time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import aiohttp

from benchmarks.loadtest.record import Record


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    name: str
    data: str


class EventReader:
    """Bytes as they arrive, cut anywhere, into events. Pure."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that are complete now; what is not is kept for the next call."""
        self._pending += data
        *blocks, self._pending = self._pending.split(b"\n\n")
        for block in blocks:
            fields = dict(_fields(block.decode()))
            yield Event(fields.get("event", "message"), fields.get("data", ""))


def _fields(block: str) -> Iterator[tuple[str, str]]:
    for line in block.splitlines():
        name, found, value = line.partition(":")
        if found and name:
            yield name, value.removeprefix(" ")


class GradioError(RuntimeError):
    """The app refused the call or its function failed; the message is what it said."""


@dataclass(frozen=True, slots=True)
class GradioClient:
    """Asks the function `name` of the app at `url`: a question and how many tokens to write, for a
    text and its number of tokens. `clock` gives the seconds since the step began."""

    session: aiohttp.ClientSession
    url: str
    clock: Callable[[], float]
    name: str = "answer"

    async def ask(self, question: str, num_tokens: int, record: Record) -> None:
        """Fills in the record; a failure is its `error`."""
        record.sent_at_s = record.due_at_s = self.clock()
        try:
            record.output_tokens = await self._call([question, num_tokens], record)
        except (aiohttp.ClientError, GradioError, ValueError) as error:
            record.error = str(error) or type(error).__name__
            return
        record.first_at_s = record.answer_at_s = record.ended_at_s = self.clock()
        record.done = record.has_content = True

    async def _call(self, inputs: list[str | int], record: Record) -> int:
        call = f"{self.url}/gradio_api/call/{self.name}"
        async with self.session.post(call, json={"data": inputs}) as reply:
            record.status = reply.status
            if reply.status != 200:
                raise GradioError((await reply.text())[:300])
            event_id = (await reply.json())["event_id"]
        reader = EventReader()
        async with self.session.get(f"{call}/{event_id}") as reply:
            async for data in reply.content.iter_any():
                for event in reader.feed(data):
                    record.num_events += 1
                    if event.name == "complete":
                        return tokens_of(event.data)
                    if event.name == "error":
                        raise GradioError(f"the function failed: {event.data}")
        raise GradioError("the stream broke off")


def tokens_of(data: str) -> int:
    """The second of the outputs (text, tokens); raises `ValueError` where they are others."""
    outputs = json.loads(data)
    if not (isinstance(outputs, list) and len(outputs) == 2 and isinstance(outputs[0], str)):
        raise ValueError(f"not a text and its tokens: {data[:100]}")
    return int(outputs[1])
