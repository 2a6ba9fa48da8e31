"""One generation: the engine call behind one chat request, its output split into trace and answer.

Today a generation has one leg, a streaming chat completion on one replica. What it emits are the
engine's own choices, with `delta.reasoning` and `delta.content` replaced by what the splitter
releases; `usage` is complete when `run` returns.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from serve.describe import EngineInfo
from serve.errors import ContextLengthExceeded, ServeError, UpstreamError
from serve.presets import BUDGET, Plan
from serve.reasoning import ReasoningTokenCounter, TraceFormat, TraceSplitter
from serve.replicas import Lease, ReplicaSet
from serve.sse import DONE, SSEDecoder, SSETooLong
from serve.stopping import StopFinder
from serve.wire import EngineChoice, EngineUsage, decode_chunk

CHAT_PATH = "/v1/chat/completions"
FOLDED_STREAM_INTERVAL = 16
"""Tokens per chunk that an engine is asked for when the client wants the whole reply: the engine
spends its time on tokens, not on chunks nobody reads (`stream_interval`, vLLM 0.32)."""


Emit = Callable[[list[EngineChoice]], None]


class Usage(msgspec.Struct):
    """Tokens of one generation, over all its choices."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int | None = None


class _Choice:
    __slots__ = ("counter", "ended", "finder", "num_tokens", "splitter")

    def __init__(self, trace: TraceFormat, plan: Plan) -> None:
        self.splitter = TraceSplitter(trace)
        self.counter = ReasoningTokenCounter(trace)
        self.finder = StopFinder(plan.stop, include=plan.include_stop) if plan.stop else None
        self.num_tokens = 0
        self.ended = False

    def take(self, choice: EngineChoice) -> None:
        """Counts the chunk's tokens and replaces its text by what may be released."""
        delta = choice.delta
        if choice.token_ids is not None:
            self.num_tokens += len(choice.token_ids)
            if not self.counter.closed:
                self.counter.add(choice.token_ids)
        elif delta.content or delta.reasoning or delta.reasoning_content:
            self.num_tokens += 1
            self.counter.num_tokens += not self.splitter.answering
        trace, answer = self.splitter.feed_split(
            delta.reasoning or delta.reasoning_content or "", delta.content or ""
        )
        if choice.finish_reason is not None:
            last_trace, last_answer = self.splitter.finish()
            trace, answer = trace + last_trace, answer + last_answer
            self.ended = True
        if self.finder is not None:
            answer = self._until_stop(choice, answer, self.finder)
        delta.reasoning, delta.content = trace, answer

    def _until_stop(self, choice: EngineChoice, answer: str, finder: StopFinder) -> str:
        answer = finder.feed(answer)
        if finder.found is not None:
            choice.finish_reason, choice.stop_reason = "stop", finder.found
            self.ended = True
        elif choice.finish_reason is not None:
            answer += finder.finish()
        return answer


class Generation:
    """`start()` it, `run()` it, and `close()` it on every path."""

    def __init__(self, plan: Plan, replicas: ReplicaSet, request_id: str) -> None:
        self._plan = plan
        self._replicas = replicas
        self._headers = {"x-request-id": request_id}
        self._lease: Lease | None = None
        self._choices: list[_Choice] = []
        self.usage = Usage()
        self.prompt_token_ids: list[int] | None = None

    async def start(self) -> None:
        """Sends the request to a replica; returns when the engine has accepted it.

        Raises `ServeError`; nothing is left running then.
        """
        model = self._plan.model
        try:
            self._lease = await self._replicas.open(
                model, CHAT_PATH, self._body, headers=self._headers
            )
        except ContextLengthExceeded as exc:
            raise await self._too_long(exc) from exc
        trace = self._lease.info.trace
        self._choices = [_Choice(trace, self._plan) for _ in range(self._plan.num_choices)]

    async def run(self, emit: Emit) -> None:
        """Calls `emit` with the choices of each read from the engine, in the read callback itself;
        returns when the generation is complete. Raises `UpstreamError` when it breaks off."""
        if self._lease is None:
            raise RuntimeError("start() comes first")
        reply = self._lease.reply
        feed, take, has_stop = SSEDecoder().feed, self._take, bool(self._plan.stop)
        complete = False

        def sink(data: bytes) -> bool:
            nonlocal complete
            batch: list[EngineChoice] = []
            for event in feed(data):
                if event == DONE:
                    complete = True
                else:
                    batch += take(event)
            if batch:
                emit(batch)
            return not (complete or (has_stop and self._stopped()))

        try:
            await reply.pipe(sink)
        except (msgspec.DecodeError, SSETooLong) as exc:
            raise UpstreamError(f"the engine's stream could not be read: {exc}") from exc
        finally:
            self._count()
        if complete:
            reply.detach()
        elif not self._stopped():
            raise UpstreamError("the engine's stream ended before it was complete")

    def pause(self) -> None:
        """The client can't keep up: the engine is to wait."""
        if self._lease is not None:
            self._lease.reply.pause()

    def resume(self) -> None:
        if self._lease is not None:
            self._lease.reply.resume()

    def close(self) -> None:
        """Ends the leg; an unfinished one is aborted on the engine."""
        if self._lease is not None:
            self._lease.close()

    def _body(self, info: EngineInfo) -> bytes:
        body = self._plan.body
        if not info.has_thinking_budget and BUDGET in body:
            body = {key: value for key, value in body.items() if key != BUDGET}
        if not self._plan.stream:
            body = body | {"stream_interval": FOLDED_STREAM_INTERVAL}
        return msgspec.json.encode(body)

    def _take(self, event: bytes) -> list[EngineChoice]:
        chunk = decode_chunk(event)
        if chunk.error is not None:
            raise UpstreamError(f"the engine reported: {chunk.error.message}")
        if chunk.prompt_token_ids is not None:
            self.prompt_token_ids = chunk.prompt_token_ids
            self.usage.prompt_tokens = len(chunk.prompt_token_ids)
        if chunk.usage is not None:
            self._settle(chunk.usage)
        choices, states = chunk.choices, self._choices
        for choice in choices:
            if not 0 <= choice.index < len(states):
                raise UpstreamError(
                    f"the engine sent choice {choice.index}, which nobody asked for"
                )
        if self._plan.stop:
            choices = [choice for choice in choices if not states[choice.index].ended]
        for choice in choices:
            states[choice.index].take(choice)
        return choices

    def _stopped(self) -> bool:
        """Whether stop strings ended what the engine would go on with: the rest is not wanted."""
        if not self._plan.stop or not all(choice.ended for choice in self._choices):
            return False
        return any(choice.finder and choice.finder.found for choice in self._choices)

    def _count(self) -> None:
        self.usage.reasoning_tokens = sum(choice.counter.num_tokens for choice in self._choices)
        counted = sum(choice.num_tokens for choice in self._choices)
        self.usage.completion_tokens = self.usage.completion_tokens or counted

    def _settle(self, usage: EngineUsage) -> None:
        self.usage.prompt_tokens = usage.prompt_tokens
        self.usage.completion_tokens = usage.completion_tokens or 0
        if usage.prompt_tokens_details is not None:
            self.usage.cached_tokens = usage.prompt_tokens_details.get("cached_tokens")

    async def _too_long(self, told: ContextLengthExceeded) -> ContextLengthExceeded:
        """The context error with exact figures from the engine's tokenizer; where that can't tell,
        the engine's own words."""
        body = {key: self._plan.body[key] for key in ("model", "messages")}
        try:
            reply = await self._replicas.call(self._plan.model, "/tokenize", body)
            counted = msgspec.json.decode(reply, type=_Count)
        except (ServeError, msgspec.DecodeError):
            return told
        too_many = counted.count - counted.max_model_len + 1
        return ContextLengthExceeded(
            f"the prompt has {counted.count} tokens, {too_many} too many for a context of "
            f"{counted.max_model_len} that must also hold the reply; shorten the messages",
            param="messages",
        )


class _Count(msgspec.Struct):
    count: int
    max_model_len: int
