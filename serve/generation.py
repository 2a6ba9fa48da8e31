"""One generation: the engine calls behind one chat request, its output split into trace and answer.

A generation is made of legs. The first is a streaming chat completion on one replica; when its
replica fails, another leg goes on elsewhere with the same text exactly (`serve.continuation`), or
anew where nothing has been emitted yet. What it emits are the engine's own choices, with
`delta.reasoning` and `delta.content` replaced by what the splitter releases; `usage` is complete
when `run` returns.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

import msgspec

from serve.choice import ChoiceState
from serve.continuation import COMPLETIONS_PATH, completion_body, obstacle
from serve.describe import EngineInfo
from serve.errors import ContextLengthExceeded, ServeError, UpstreamError
from serve.presets import BUDGET, Plan
from serve.replicas import Lease, Replica, ReplicaSet
from serve.sse import DONE, SSEDecoder, SSETooLong
from serve.tokenizer import explain_too_long, num_whole
from serve.upstream import reported
from serve.wire import (
    UNREADABLE,
    EngineChoice,
    EngineChunk,
    EngineUsage,
    decode_chunk,
    decode_text_chunk,
)

CHAT_PATH = "/v1/chat/completions"
FOLDED_STREAM_INTERVAL = 16
"""Tokens per chunk that an engine is asked for when the client wants the whole reply: the engine
spends its time on tokens, not on chunks nobody reads (`stream_interval`, vLLM 0.32)."""
MAX_FAILOVERS = 2
"""A request that kills three engines is to blame itself."""
BROKEN_OFF = frozenset({"abort", "error"})
"""Finish reasons with which vLLM ends what it gives up, when it is stopped above all."""

Emit = Callable[[list[EngineChoice]], None]


class Usage(msgspec.Struct):
    """Tokens of one generation, over all its choices."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int | None = None


class Generation:
    """`start()` it, `run()` it, and `close()` it on every path."""

    def __init__(self, plan: Plan, replicas: ReplicaSet, request_id: str) -> None:
        self._plan = plan
        self._replicas = replicas
        self._headers = {"x-request-id": request_id}
        self._lease: Lease | None = None
        self._decode: Callable[[bytes], EngineChunk] = decode_chunk
        self._choices: list[ChoiceState] = []
        self._prompt_ids: array[int] | None = None
        self._begun = False
        """Whether anything has been emitted."""
        self._paused = False
        self._failed: set[Replica] = set()
        self.num_failovers = 0
        self.usage = Usage()

    @property
    def prompt_token_ids(self) -> list[int] | None:
        return None if self._prompt_ids is None else self._prompt_ids.tolist()

    async def start(self) -> None:
        """Sends the request to a replica; returns when the engine has accepted it.

        Raises `ServeError`; nothing is left running then.
        """
        model = self._plan.model
        try:
            self._lease = await self._replicas.open(
                model,
                CHAT_PATH,
                self._body,
                headers=self._headers,
                avoid=self._failed,
                affinity=self._plan.affinity,
            )
        except ContextLengthExceeded as exc:
            raise await explain_too_long(self._replicas, self._plan.body, exc) from exc
        trace = self._lease.info.trace
        self._choices = [ChoiceState(trace, self._plan) for _ in range(self._plan.num_choices)]

    async def run(self, emit: Emit, forget: Callable[[], None] | None = None) -> None:
        """Calls `emit` with the choices of each read from the engine, in the read callback itself;
        returns when the generation is complete. `forget`, given where nothing of it has been sent
        yet, takes everything emitted back: the text then begins anew when it can't be continued.

        Raises `UpstreamError` when it breaks off for good, `EngineRejected` when the engine calls
        the request itself invalid.
        """
        try:
            while True:
                try:
                    await self._run_leg(emit)
                    return
                except UpstreamError as exc:
                    if all(choice.ended for choice in self._choices):
                        return  # only the usage was still to come
                    await self._fail_over(exc, forget)
        finally:
            self._count()

    async def _run_leg(self, emit: Emit) -> None:
        if self._lease is None:
            raise RuntimeError("start() comes first")
        reply = self._lease.reply
        feed, take, has_stop = SSEDecoder().feed, self._take, bool(self._plan.stop)
        complete = False

        def sink(data: bytes) -> bool:
            nonlocal complete
            batch: list[EngineChoice] = []
            try:
                for event in feed(data):
                    if event == DONE:
                        complete = True
                    else:
                        batch += take(event)
            finally:  # what came before a broken event has been counted: it must go out
                if batch:
                    self._begun = True
                    emit(batch)
            return not (complete or (has_stop and self._stopped()))

        try:
            await reply.pipe(sink)
        except (*UNREADABLE, SSETooLong) as exc:
            raise UpstreamError(f"the engine's stream could not be read: {exc}") from exc
        if complete and all(choice.ended for choice in self._choices):
            reply.detach()
        elif not self._stopped():
            raise UpstreamError("the engine's stream ended before it was complete")

    async def _fail_over(self, broken: UpstreamError, forget: Callable[[], None] | None) -> None:
        """Opens the next leg on another replica. Raises `UpstreamError` where there is no way."""
        if self._lease is not None:
            self._lease.failed(broken)
            self._lease.close()
            self._failed.add(self._lease.replica)
        if self.num_failovers >= MAX_FAILOVERS or not self._replicas.may_retry():
            raise broken
        self.num_failovers += 1
        field = obstacle(self._plan) if self._prompt_ids else "return_token_ids"
        if self._begun and field is not None and forget is None:
            raise UpstreamError(
                f"{broken.message}; what has been sent can't be continued elsewhere because of "
                f"`{field}`: send the request again"
            )
        try:
            if self._begun and field is None:
                await self._continue()
            else:
                if forget is not None:
                    forget()
                await self.start()
        except ServeError as exc:
            raise UpstreamError(f"{broken.message}; nobody could go on: {exc.message}") from exc

    async def _continue(self) -> None:
        replicas, model, (choice,) = self._replicas, self._plan.model, self._choices
        choice.continue_raw(await num_whole(replicas, model, choice.ids))
        prompt_ids = self._prompt_ids or ()

        def body_for(info: EngineInfo) -> bytes:
            body = completion_body(self._plan, prompt_ids, choice.ids, info.max_model_len)
            return msgspec.json.encode(self._fitted(body, info))

        self._decode = decode_text_chunk
        self._lease = await replicas.open(
            model,
            COMPLETIONS_PATH,
            body_for,
            headers=self._headers,
            avoid=self._failed,
            affinity=self._plan.affinity,
        )
        if self._paused:
            self._lease.reply.pause()

    def pause(self) -> None:
        """The client can't keep up: the engine is to wait."""
        self._paused = True
        if self._lease is not None:
            self._lease.reply.pause()

    def resume(self) -> None:
        self._paused = False
        if self._lease is not None:
            self._lease.reply.resume()

    def close(self) -> None:
        """Ends the leg; an unfinished one is aborted on the engine."""
        if self._lease is not None:
            self._lease.close()

    def _body(self, info: EngineInfo) -> bytes:
        return msgspec.json.encode(self._fitted(self._plan.body, info))

    def _fitted(self, body: dict[str, object], info: EngineInfo) -> dict[str, object]:
        if not info.has_thinking_budget and BUDGET in body:
            body = {key: value for key, value in body.items() if key != BUDGET}
        if not self._plan.stream:
            body = body | {"stream_interval": FOLDED_STREAM_INTERVAL}
        return body

    def _take(self, event: bytes) -> list[EngineChoice]:
        chunk = self._decode(event)
        if chunk.error is not None:
            raise reported(chunk.error)
        if chunk.prompt_token_ids is not None:
            self._prompt_ids = array("I", chunk.prompt_token_ids)
            self.usage.prompt_tokens = len(chunk.prompt_token_ids)
        if chunk.usage is not None:
            self._settle(chunk.usage)
        choices, states = chunk.choices, self._choices
        if self._plan.stop:
            ended = {index for index, state in enumerate(states) if state.ended}
            choices = [choice for choice in choices if choice.index not in ended]
        for choice in choices:
            if not 0 <= choice.index < len(states):
                raise UpstreamError(
                    f"the engine sent choice {choice.index}, which nobody asked for"
                )
            if choice.finish_reason in BROKEN_OFF:
                raise UpstreamError("the engine gave the request up")
            states[choice.index].take(choice)
        return choices

    def _stopped(self) -> bool:
        """Whether stop strings ended what the engine would go on with: the rest is not wanted."""
        if not self._plan.stop or not all(choice.ended for choice in self._choices):
            return False
        return any(choice.finder and choice.finder.found for choice in self._choices)

    def _count(self) -> None:
        self.usage.reasoning_tokens = sum(choice.num_reasoning_tokens for choice in self._choices)
        counted = sum(choice.num_tokens for choice in self._choices)
        self.usage.completion_tokens = self.usage.completion_tokens or counted

    def _settle(self, usage: EngineUsage) -> None:
        self.usage.prompt_tokens = usage.prompt_tokens
        self.usage.completion_tokens = usage.completion_tokens or 0
        if usage.prompt_tokens_details is not None:
            self.usage.cached_tokens = usage.prompt_tokens_details.get("cached_tokens")
