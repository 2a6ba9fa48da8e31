"""One generation: the engine calls behind one choice of a chat, its output split into trace and
answer.

A generation is made of legs. The first is a streaming chat completion on one replica. Another one
goes on with the same text exactly (`serve.continuation`), or anew where nothing has been emitted
yet, when the replica fails; and where the trace ended without an answer, it goes on from the closed
trace (`docs/decisions/0011-thinking-ends.md`). What is emitted are the engine's own choices, with
`delta.reasoning` and `delta.content` replaced by what the splitter releases; `usage` is complete
when `run` returns.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable

import msgspec

from serve.choice import ChoiceState
from serve.continuation import COMPLETIONS_PATH, completion_body, obstacle, within_limit
from serve.describe import EngineInfo
from serve.errors import ContextLengthExceeded, ServeError, UpstreamError
from serve.legs import LegKind, Legs
from serve.plan import Plan
from serve.presets import BUDGET
from serve.reasoning import TraceFormat
from serve.replicas import Lease, Replica, ReplicaSet
from serve.sse import DONE, SSEDecoder, SSETooLong
from serve.tokenizer import explain_too_long, num_whole
from serve.upstream import reported
from serve.usage import Phases, Usage
from serve.wire import (
    UNREADABLE,
    EngineChoice,
    EngineChunk,
    EngineDelta,
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
_AFTER_CUT: dict[str, LegKind] = {"budget": "budget", "repetition": "breaker"}

Emit = Callable[[list[EngineChoice]], None]
Forget = Callable[[int], None]
"""Takes back all that was emitted of a choice."""
_Leg = Callable[[], Awaitable[None]]


class Generation:
    """`run()` it, and `close()` it on every path. It takes what its legs bring: `replica.Taker`.
    What it emits has the index `index`; what is told of its calls goes to `legs`."""

    def __init__(
        self,
        plan: Plan,
        replicas: ReplicaSet,
        request_id: str,
        *,
        index: int = 0,
        legs: Legs | None = None,
    ) -> None:
        self._plan = plan
        self._replicas = replicas
        self._index = index
        self._headers = {"x-request-id": request_id}
        self._legs = Legs() if legs is None else legs.of(index)
        self._lease: Lease | None = None
        self._num_before = 0
        """Tokens that the leg began with."""
        self._emit: Emit
        self._feed: Callable[[bytes], list[bytes]]
        self._decode: Callable[[bytes], EngineChunk]
        self._choice = ChoiceState(TraceFormat(), plan)
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

    @property
    def num_tokens(self) -> int:
        """Generated so far."""
        return self._choice.num_tokens

    async def run(self, emit: Emit, forget: Forget | None = None) -> None:
        """Calls `emit` with the choices of each read from the engine, in the read callback itself;
        returns when the generation is complete. `forget`, given where nothing of it has been sent
        yet, takes everything emitted back: the text then begins anew when it can't be continued.

        Raises `ServeError` where no engine takes the request up, `UpstreamError` when it breaks off
        for good, `EngineRejected` when the engine calls the request itself invalid.
        """
        self._emit = emit
        leg: _Leg = self._chat
        broken: UpstreamError | None = None
        try:
            while True:
                try:
                    await leg()
                except ServeError as exc:
                    if self._lease is None or not self._lease.accepted:
                        if broken is None:
                            raise
                        raise UpstreamError(
                            f"{broken.message}; nobody could go on: {exc.message}"
                        ) from exc
                    if not isinstance(exc, UpstreamError):
                        raise
                    if not (self._choice.ended or self._choice.cut):
                        broken = exc
                        leg = self._fail_over(broken, forget)
                        continue  # else only the usage was still to come
                if self._choice.cut is None:
                    return
                leg = self._recovery
        finally:
            del self._emit  # it leads back here
            self._count()

    async def _chat(self) -> None:
        """A leg from the beginning."""
        self._continues = False
        try:
            await self._run_leg(CHAT_PATH, self._chat_body)
        except ContextLengthExceeded as exc:
            raise await explain_too_long(self._replicas, self._plan.body, exc) from exc

    async def _continuation(self) -> None:
        """A leg that goes on with the text so far."""
        plan, choice, prompt_ids = self._plan, self._choice, self._prompt_ids or ()
        choice.continue_raw(await num_whole(self._replicas, plan.model, choice.text_ids))
        ids = choice.text_ids
        left = max(choice.recovered is not None, plan.max_tokens - choice.num_tokens)

        def body_for(info: EngineInfo) -> bytes:
            room = info.max_model_len - len(prompt_ids) - len(ids)
            body = completion_body(plan, prompt_ids, ids, min(left, room))
            return msgspec.json.encode(self._fitted(body, info))

        self._continues = True
        await self._run_leg(COMPLETIONS_PATH, body_for)

    async def _recovery(self) -> None:
        """A leg to the answer, or its rest, to which the last leg didn't come."""
        choice, lease = self._choice, self._lease
        self._legs.kind = _AFTER_CUT.get(choice.cut or "", "recovery")
        if lease is not None:
            lease.close()
            left = max(1, self._plan.max_tokens - choice.num_tokens)
            wanted = min(left, max(1, self._plan.answer_reserve))
            room = lease.info.max_model_len - len(self._prompt_ids or ()) - wanted
            rest = choice.recover(room)
            if rest:
                self._emit([EngineChoice(self._index, EngineDelta(reasoning=rest))])
        await self._continuation()

    async def _run_leg(self, path: str, body_for: Callable[[EngineInfo], bytes]) -> None:
        try:
            lease = await self._replicas.open(
                self._plan.model,
                path,
                body_for,
                headers=self._headers,
                avoid=self._failed,
                affinity=self._plan.affinity,
                taker=self,
                legs=self._legs,
            )
        finally:
            self._legs.brought(max(0, self._choice.num_tokens - self._num_before))
        choice = self._choice
        if self._complete and (choice.ended or choice.cut):
            lease.reply.detach()
        elif not choice.had_enough:
            raise UpstreamError("the engine's stream ended before it was complete")

    def _fail_over(self, broken: UpstreamError, forget: Forget | None) -> _Leg:
        """The next leg, on another replica. Raises `UpstreamError` where there is no way."""
        if self._lease is not None:
            self._lease.failed(broken)
            self._lease.close()
            self._failed.add(self._lease.replica)
            self._lease = None
        if self.num_failovers >= MAX_FAILOVERS or not self._replicas.may_retry():
            raise broken
        self.num_failovers += 1
        self._legs.kind = "failover"
        field = self._obstacle() if self._prompt_ids else "return_token_ids"
        if self._begun and field is None:
            return self._continuation
        if self._begun and forget is None:
            raise UpstreamError(
                f"{broken.message}; what has been sent can't be continued elsewhere because of "
                f"`{field}`: send the request again"
            )
        if forget is not None:
            forget(self._index)
        return self._chat

    def _obstacle(self) -> str | None:
        trace, splitter = self._choice.trace, self._choice.splitter
        return obstacle(self._plan, grammar_begun=splitter.answered or not trace.split_by_engine)

    def hold(self, lease: Lease) -> None:
        self._lease, self._num_before = lease, self._choice.num_tokens
        self._feed, self._complete = SSEDecoder().feed, False
        self._decode = decode_text_chunk if self._continues else decode_chunk
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
        return not (self._complete or self._choice.had_enough)

    @property
    def phases(self) -> list[Phases]:
        """Of this one; none where nothing was generated."""
        choice, num_thinking = self._choice, self.usage.reasoning_tokens
        if not choice.num_tokens:
            return []
        return [
            Phases(
                num_thinking_tokens=num_thinking,
                num_answer_tokens=max(0, self.usage.completion_tokens - num_thinking),
                thinking_ended_by=choice.thinking_ended_by,
                finish_reason=choice.finish_reason,
                is_whole=choice.is_whole,
            )
        ]

    def note(self, index: int | None = None) -> dict[str, object]:
        """What `r1` tells beyond the plan; nothing of a generation left undisturbed."""
        note: dict[str, object] = {}
        if self.num_failovers:
            note["failovers"] = self.num_failovers
            if self._plan.body.get("seed") is not None:
                note["seed_kept"] = False
        if self._choice.recovered is not None:
            note["recovered"] = self._choice.recovered
        return note

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

    def _chat_body(self, info: EngineInfo) -> bytes:
        self._choice = ChoiceState(info.trace, self._plan)
        if self._plan.recovers and self._obstacle() is None:
            self._choice.recovers = True
            self._choice.watch_loops()
        return msgspec.json.encode(self._fitted(self._plan.body, info))

    def _fitted(self, body: dict[str, object], info: EngineInfo) -> dict[str, object]:
        """`body` with what keeps thinking within its budget."""
        if not self._plan.stream:
            body = body | {"stream_interval": FOLDED_STREAM_INTERVAL}
        plan, choice, budget = self._plan, self._choice, self._plan.budget.tokens
        choice.thinks_until = None
        if budget is None or budget >= plan.max_tokens or choice.splitter.answering:
            return body
        if info.has_thinking_budget and (budget == 0 or self._obstacle() is not None):
            choice.splitter.expect_second_tag()
            return body | {BUDGET: budget}
        if self._obstacle() is None:
            choice.thinks_until = max(budget, choice.num_tokens + 1)
            left = choice.thinks_until - choice.num_tokens
            body = body | {"max_tokens": min(left, int(str(body.get("max_tokens", left))))}
        return within_limit(body)

    def _read(self, event: bytes) -> list[EngineChoice]:
        chunk, choice = self._decode(event), self._choice
        if chunk.error is not None:
            raise reported(chunk.error)
        if chunk.prompt_token_ids is not None and self._prompt_ids is None:
            self._prompt_ids = array("I", chunk.prompt_token_ids)
            self.usage.prompt_tokens = len(chunk.prompt_token_ids)
        if chunk.usage is not None:
            self._settle(chunk.usage)
        if choice.had_enough:
            return []
        for said in chunk.choices:
            if said.index != 0:
                raise UpstreamError(f"the engine sent choice {said.index}, which nobody asked for")
            if said.finish_reason in BROKEN_OFF:
                raise UpstreamError("the engine gave the request up")
            choice.take(said)
            said.index = self._index
        return chunk.choices

    def _count(self) -> None:
        choice = self._choice
        self.usage.reasoning_tokens = choice.num_reasoning_tokens
        if choice.is_exact or not self.usage.completion_tokens:
            self.usage.completion_tokens = choice.num_tokens

    def _settle(self, usage: EngineUsage) -> None:
        self.usage.prompt_tokens = usage.prompt_tokens
        self.usage.completion_tokens = usage.completion_tokens or 0
        if usage.prompt_tokens_details is not None:
            self.usage.cached_tokens = usage.prompt_tokens_details.get("cached_tokens")
