"""One generation: the engine calls behind one chat request, its output split into trace and answer.

A generation is made of legs. The first is a streaming chat completion on one replica; when its
replica fails, another leg goes on elsewhere with the same text exactly (`serve.continuation`), or
anew where nothing has been emitted yet. What it emits are the engine's own choices, with
`delta.reasoning` and `delta.content` replaced by what the splitter releases; `usage` is complete
when `run` returns.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable

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
    """`run()` it, and `close()` it on every path. It takes what its legs bring: `replica.Taker`."""

    def __init__(self, plan: Plan, replicas: ReplicaSet, request_id: str) -> None:
        self._plan = plan
        self._replicas = replicas
        self._headers = {"x-request-id": request_id}
        self._lease: Lease | None = None
        self._emit: Emit
        self._feed: Callable[[bytes], list[bytes]]
        self._decode: Callable[[bytes], EngineChunk]
        self._choices: list[ChoiceState] = []
        self._prompt_ids: array[int] | None = None
        self._begun = False
        """Whether anything has been emitted."""
        self._continues = False
        """Whether the leg goes on with a text, raw, instead of being a chat."""
        self._complete = False
        """Whether the leg has come to its `[DONE]`."""
        self._paused = False
        self._failed: set[Replica] = set()
        self.num_failovers = 0
        self.usage = Usage()

    @property
    def prompt_token_ids(self) -> list[int] | None:
        return None if self._prompt_ids is None else self._prompt_ids.tolist()

    async def run(self, emit: Emit, forget: Callable[[], None] | None = None) -> None:
        """Calls `emit` with the choices of each read from the engine, in the read callback itself;
        returns when the generation is complete. `forget`, given where nothing of it has been sent
        yet, takes everything emitted back: the text then begins anew when it can't be continued.

        Raises `ServeError` where no engine takes the request up, `UpstreamError` when it breaks off
        for good, `EngineRejected` when the engine calls the request itself invalid.
        """
        self._emit = emit
        leg: Callable[[], Awaitable[None]] = self._chat
        broken: UpstreamError | None = None
        try:
            while True:
                try:
                    await leg()
                    return
                except ServeError as exc:
                    if self._lease is None or not self._lease.accepted:
                        if broken is None:
                            raise
                        raise UpstreamError(
                            f"{broken.message}; nobody could go on: {exc.message}"
                        ) from exc
                    if not isinstance(exc, UpstreamError):
                        raise
                    if all(choice.ended for choice in self._choices):
                        return  # only the usage was still to come
                    broken = exc
                    leg = self._fail_over(broken, forget)
        finally:
            del self._emit  # it leads back here
            self._count()

    async def _chat(self) -> None:
        """A leg from the beginning."""
        self._continues = False
        try:
            await self._run_leg(CHAT_PATH, self._body)
        except ContextLengthExceeded as exc:
            raise await explain_too_long(self._replicas, self._plan.body, exc) from exc

    async def _continuation(self) -> None:
        """A leg that goes on with the text so far."""
        prompt_ids, (choice,) = self._prompt_ids or (), self._choices
        choice.continue_raw(await num_whole(self._replicas, self._plan.model, choice.ids))

        def body_for(info: EngineInfo) -> bytes:
            body = completion_body(self._plan, prompt_ids, choice.ids, info.max_model_len)
            return msgspec.json.encode(self._fitted(body, info))

        self._continues = True
        await self._run_leg(COMPLETIONS_PATH, body_for)

    async def _run_leg(self, path: str, body_for: Callable[[EngineInfo], bytes]) -> None:
        lease = await self._replicas.open(
            self._plan.model,
            path,
            body_for,
            headers=self._headers,
            avoid=self._failed,
            affinity=self._plan.affinity,
            taker=self,
        )
        if self._complete and all(choice.ended for choice in self._choices):
            lease.reply.detach()
        elif not self._stopped():
            raise UpstreamError("the engine's stream ended before it was complete")

    def _fail_over(
        self, broken: UpstreamError, forget: Callable[[], None] | None
    ) -> Callable[[], Awaitable[None]]:
        """The next leg, on another replica. Raises `UpstreamError` where there is no way."""
        if self._lease is not None:
            self._lease.failed(broken)
            self._lease.close()
            self._failed.add(self._lease.replica)
            self._lease = None
        if self.num_failovers >= MAX_FAILOVERS or not self._replicas.may_retry():
            raise broken
        self.num_failovers += 1
        field = obstacle(self._plan) if self._prompt_ids else "return_token_ids"
        if self._begun and field is None:
            return self._continuation
        if self._begun and forget is None:
            raise UpstreamError(
                f"{broken.message}; what has been sent can't be continued elsewhere because of "
                f"`{field}`: send the request again"
            )
        if forget is not None:
            forget()
        return self._chat

    def hold(self, lease: Lease) -> None:
        self._lease = lease
        self._feed, self._complete = SSEDecoder().feed, False
        self._decode = decode_text_chunk if self._continues else decode_chunk
        if not self._continues:
            trace = lease.info.trace
            self._choices = [ChoiceState(trace, self._plan) for _ in range(self._plan.num_choices)]
        if self._paused:
            lease.pause()

    def take(self, data: bytes) -> bool:
        batch: list[EngineChoice] = []
        try:
            try:
                for event in self._feed(data):
                    if event == DONE:
                        self._complete = True
                    else:
                        batch += self._read(event)
            finally:  # what came before a broken event has been counted: it must go out
                if batch:
                    self._begun = True
                    self._emit(batch)
        except (*UNREADABLE, SSETooLong) as exc:
            raise UpstreamError(f"the engine's stream could not be read: {exc}") from exc
        return not (self._complete or (self._plan.stop and self._stopped()))

    def pause(self) -> None:
        """The client can't keep up: the engine is to wait."""
        self._paused = True
        if self._lease is not None:
            self._lease.pause()

    def resume(self) -> None:
        self._paused = False
        if self._lease is not None:
            self._lease.resume()

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

    def _read(self, event: bytes) -> list[EngineChoice]:
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
