"""The reply to a chat: the generation's choices sent as they come, or folded into one body."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import ClassVar

import msgspec
from starlette.types import Send

from serve import sse
from serve.admission import Admission
from serve.forms import Sampled, StreamForm, WholeForm
from serve.plan import Plan
from serve.record import Record
from serve.reply import Head, StreamReply, WholeReply
from serve.response import DisconnectGuard, EngineResponse, body_part
from serve.stopwatch import Stopwatch
from serve.telemetry import Telemetry
from serve.usage import Usage
from serve.visit import Visit
from serve.votes import Vote
from serve.wire import EngineChoice
from serve.writer import ClientWriter


class ChatReply(EngineResponse):
    """Runs `generation` when the server calls it, as a stream or as a whole, by the plan. Other
    APIs' replies differ in their forms only."""

    route = "/v1/chat/completions"
    id_prefix: ClassVar = "chatcmpl-"

    def __init__(
        self,
        plan: Plan,
        generation: Sampled,
        head: Head,
        *,
        admission: Admission,
        telemetry: Telemetry,
        visit: Visit,
    ) -> None:
        super().__init__(admission, telemetry, visit, plan.preset)
        self.plan = plan
        self.generation = generation
        self.head = head
        content_type = b"text/event-stream; charset=utf-8" if plan.stream else b"application/json"
        self.raw_headers = [
            (b"content-type", content_type),
            (b"cache-control", b"no-store"),
            (b"x-request-id", visit.identify(head.id).encode()),
            (b"x-r1-preset", plan.preset.encode("latin-1")),
            (b"x-r1-budget-source", plan.budget.source.encode()),
        ]
        if (budget := plan.budget.tokens) is not None:
            self.raw_headers.append((b"x-r1-thinking-token-budget", b"%d" % budget))

    async def run(self, send: Send, guard: DisconnectGuard) -> None:
        self.raw_headers += self.admission.headers()
        await (self._stream if self.plan.stream else self._whole)(send, guard)

    def stream_form(self) -> StreamForm:
        return StreamReply(self.plan, self.head, self.generation)

    def whole_form(self) -> WholeForm:
        return WholeReply(self.plan, self.head)

    def close(self) -> None:
        self.generation.close()

    def used(self) -> Usage:
        return self.generation.usage

    def ended(self, outcome: str) -> None:
        super().ended(outcome)
        usage = self.generation.usage
        self.telemetry.count(usage, self.preset)
        self.telemetry.failed_over(self.generation.num_failovers)
        if phases := self.generation.phases:
            self.telemetry.thought(self.preset, self.plan.budget, phases)
        if isinstance(self.generation, Vote):
            self.telemetry.voted(self.preset, self.generation.tally)

    def tell(self, record: Record) -> None:
        super().tell(record)
        plan, usage, generation = self.plan, self.generation.usage, self.generation
        record.id, record.model, record.stream = self.head.id, plan.model, plan.stream
        record.choices = plan.num_choices if plan.num_choices > 1 else None
        record.prompt_tokens, record.cached_tokens = usage.prompt_tokens, usage.cached_tokens
        record.reasoning_tokens = usage.reasoning_tokens
        record.answer_tokens = max(0, usage.completion_tokens - usage.reasoning_tokens)
        record.thinking_token_budget = plan.budget.tokens
        record.budget_source = plan.budget.source
        record.thinking_ended_by = [it.thinking_ended_by for it in generation.phases] or None
        if isinstance(generation, Vote):
            record.votes = generation.tally.report()
            del record.votes["answers"]

    async def _stream(self, send: Send, guard: DisconnectGuard) -> None:
        generation, reply = self.generation, self.stream_form()
        writer = ClientWriter(send, generation.pause, generation.resume, self.line)
        encode, write_body, watch = reply.encode, writer.write_body, self.watch

        def emit(choices: list[EngineChoice]) -> None:
            if watch.first_answer_s is None and (
                watch.first_token_s is None or choices[0].delta.content or len(choices) > 1
            ):
                note_first_text(watch, choices)
            events = encode(choices)
            if not self.started:
                self.started = True
                writer.begin(self.raw_headers, events)
            elif events:
                write_body(events)

        def tell(report: dict[str, object]) -> None:
            comment = sse.comment(b"r1.votes " + msgspec.json.encode(report))
            if self.started:
                writer.write_body(comment)
            else:
                self.started = True
                writer.begin(self.raw_headers, comment)

        if isinstance(generation, Vote):
            generation.on_progress = tell
        async with writer:
            await generation.run(emit)
        last = reply.end()
        guard.release()
        if self.line is None or not self.line.end(last):
            await send(body_part(last, more=False))

    async def _whole(self, send: Send, guard: DisconnectGuard) -> None:
        reply, generation = self.whole_form(), self.generation

        def emit(choices: list[EngineChoice]) -> None:
            if self.watch.first_answer_s is None:
                note_first_text(self.watch, choices)
            reply.add(choices)

        await generation.run(emit, forget=reply.clear)
        body = reply.body(generation)
        guard.release()
        self.started = True
        if self.line is None or not self.line.reply(self.raw_headers, body):
            self.raw_headers.append((b"content-length", b"%d" % len(body)))
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send(body_part(body, more=False))


def note_first_text(watch: Stopwatch, choices: Iterable[EngineChoice]) -> None:
    for choice in choices:
        if watch.first_token_s is None and (choice.delta.reasoning or choice.delta.content):
            watch.first_token_s = watch.elapsed_s()
        if choice.delta.content:
            watch.first_answer_s = watch.elapsed_s()


def make_head(request_id: str, model: str, reasoning_fields: list[str]) -> Head:
    return Head(
        id=request_id, created=int(time.time()), model=model, reasoning_fields=reasoning_fields
    )
