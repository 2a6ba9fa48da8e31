"""One vLLM engine with continuous batching, simulated. Deterministic; knows no clock of its own.

What it does is what vLLM 0.32's scheduler does (vllm/v1/core/sched/scheduler.py): before each step
the sequences that run get their tokens first, one each or the next chunk of the prompt; with what
is left of `max_num_batched_tokens` waiting requests are admitted, the lowest priority number first
and then the longest waiting, so long as one of `max_num_seqs` seats and KV blocks for all their
tokens are free. Where the KV blocks run out, the sequence that would be admitted last gives up all
of its own and waits; its text is read again later, like a prompt.

Simpler than vLLM: a prompt's KV blocks are all taken at admission rather than chunk by chunk, a
cached prefix (`cached_tokens`) saves time but no KV, and what a preempted sequence leaves in the
prefix cache is not found again.

Between two events (an end, a first answer token, a preemption, an arrival) all decode steps are
alike but for the KV that grows, and are taken in one jump: an event costs about 20 µs, a step
nothing.

Times: seconds on the caller's clock. A step is not interrupted: who comes while it runs joins the
next one.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field

from benchmarks.planner.kv_blocks import KvBlocks
from benchmarks.planner.sequence import Limits, Request, Sequence
from benchmarks.planner.step_times import StepTimes

__all__ = ["Engine", "Limits", "Request", "StepTimes"]


@dataclass(slots=True)
class _MixedStep:
    """The step under way, in which prompts are read."""

    ends_s: float
    chunks: list[tuple[Sequence, int]] = field(default_factory=list)


class Engine:
    """`slowness` multiplies every step's time."""

    def __init__(self, step_times: StepTimes, limits: Limits, slowness: float = 1.0) -> None:
        self._step_times, self._limits, self._slowness = step_times, limits, slowness
        self._now_s = 0.0  # the start of the step under way, or of the next
        self._num_steps = 0
        self._arrivals: deque[tuple[float, Sequence]] = deque()
        self._waiting: list[tuple[tuple[int, float, int], Sequence]] = []
        self._running: dict[Request, Sequence] = {}
        self._sequences: dict[Request, Sequence] = {}
        self._reading: dict[Request, Sequence] = {}
        self._mixed: _MixedStep | None = None
        self._events: list[tuple[int, int, int, Sequence]] = []
        self._order = itertools.count()
        self._kv = KvBlocks(limits.kv_tokens // limits.block_tokens, limits.block_tokens)
        self._kv_tokens = 0
        self._preempted_in: int | None = None  # the last step that began with a preemption
        self._ended: list[Request] = []

    # ---- what a caller sees ----

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._sequences) - len(self._running)

    @property
    def num_requests(self) -> int:
        return len(self._sequences)

    @property
    def kv_usage(self) -> float:
        """Share of the KV blocks that are taken, as of the last event."""
        return self._kv.taken / self._kv.num_blocks

    def submit(self, request: Request, now_s: float) -> None:
        """It joins the first step that starts at `now_s` or later. Calls come in order of time.

        Raises `ValueError` for a request that this engine could never run.
        """
        self._check(request)
        key = (request.priority, request.arrived_s, next(self._order))
        sequence = self._sequences[request] = Sequence(request, key)
        self._arrivals.append((now_s, sequence))

    def remove(self, request: Request, now_s: float) -> int:
        """Its client left, and got so many tokens; without effect if it has ended. What ends by
        `now_s` still ends: the next `advance` returns it."""
        self._run(now_s)
        sequence = self._sequences.pop(request, None)
        if sequence is None:
            return request.output_tokens
        if request in self._running:
            self._leave(sequence)
            return sequence.num_outputs
        self._arrivals = deque(pair for pair in self._arrivals if pair[1] is not sequence)
        self._waiting = [pair for pair in self._waiting if pair[1] is not sequence]
        heapq.heapify(self._waiting)
        return sequence.num_outputs

    def next_event_s(self) -> float | None:
        """When a request next starts, answers first or ends, or at the earliest could; None where
        nothing is left to do. What is submitted later than this call joins a later step."""
        if not self._schedule(None):
            return None
        if self._mixed is not None:
            return self._mixed.ends_s
        return self._now_s + self._decode_s(self._steps_to_event())

    def advance(self, until_s: float) -> list[Request]:
        """Takes the steps that end by `until_s`; returns the requests that ended, in order."""
        self._run(until_s)
        ended, self._ended = self._ended, []
        return ended

    # ---- time ----

    def _run(self, until_s: float) -> None:
        while self._schedule(until_s):
            if self._mixed is not None:
                if self._mixed.ends_s > until_s:
                    return
                self._read(self._mixed)
                continue
            num_steps = self._steps_to_event()
            if self._now_s + self._decode_s(num_steps) > until_s:
                num_steps = self._steps_within(until_s, num_steps)
                if num_steps:
                    self._decode(num_steps)
                return
            self._decode(num_steps)

    def _decode_s(self, num_steps: int) -> float:
        steps_s = self._step_times.decode_s(self._kv.num_growing, self._kv_tokens, num_steps)
        return self._slowness * steps_s

    def _steps_to_event(self) -> int:
        """Decode steps until the first that ends with an event, or before which one is due."""
        if self._preempted_in == self._num_steps:
            return 1  # nobody was admitted; in the next step someone may be
        steps = self._kv.steps_that_fit(self._num_steps, self._events[0][0] - self._num_steps)
        if not self._arrivals:
            return steps
        # The step that is under way when someone arrives is the last without them.
        arrives_s = self._arrivals[0][0]
        within = self._steps_within(arrives_s, steps)
        late = within < steps and self._now_s + self._decode_s(within) < arrives_s
        return within + late

    def _steps_within(self, until_s: float, most: int) -> int:
        """How many of `most` decode steps end by `until_s`."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self._now_s + self._decode_s(middle) <= until_s:
                low = middle
            else:
                high = middle - 1
        return low

    # ---- before a step ----

    def _schedule(self, until_s: float | None) -> bool:
        """Decides the step that starts now, or, where nothing is to do, when someone comes, if that
        is by `until_s`. False: there is none."""
        if self._mixed is not None:
            return True
        if not self._running and not self._waiting and self._arrivals:
            arrives_s = self._arrivals[0][0]
            if until_s is not None and arrives_s > until_s:
                return False
            self._now_s = max(self._now_s, arrives_s)
        while self._arrivals and self._arrivals[0][0] <= self._now_s:
            sequence = self._arrivals.popleft()[1]
            heapq.heappush(self._waiting, (sequence.key, sequence))
        self._make_room()
        if chunks := self._chunks():
            self._mixed = _MixedStep(self._now_s + self._mixed_s(chunks), chunks)
        while self._kv.num_growing and self._events[0][2] != self._events[0][3].run:
            heapq.heappop(self._events)  # of a run that is over
        return bool(self._running)

    def _make_room(self) -> None:
        """Preempts until the decoding sequences can take their step."""
        while not self._kv.fits(0, self._num_steps):
            self._preempt(max(self._running.values(), key=lambda sequence: sequence.key))
            self._preempted_in = self._num_steps

    def _preempt(self, sequence: Sequence) -> None:
        self._leave(sequence)
        sequence.request.num_preemptions += 1
        heapq.heappush(self._waiting, (sequence.key, sequence))

    def _chunks(self) -> list[tuple[Sequence, int]]:
        """What each prompt gets of the step's tokens; after a preemption nobody is admitted."""
        chunks = []
        budget = self._limits.max_num_batched_tokens - self._kv.num_growing
        for sequence in self._reading.values():
            tokens = min(budget, sequence.to_read)
            if tokens:
                chunks.append((sequence, tokens))
                budget -= tokens
        while budget > 0 and (head := self._admissible(budget)):
            heapq.heappop(self._waiting)
            self._admit(head)
            tokens = min(budget, head.to_read)
            chunks.append((head, tokens))
            budget -= tokens
        return chunks

    def _admissible(self, budget: int) -> Sequence | None:
        """The first who waits, if it may run now."""
        full = len(self._running) >= self._limits.max_num_seqs
        if full or not self._waiting or self._preempted_in == self._num_steps:
            return None
        head = self._waiting[0][1]
        if not self._limits.chunked_prefill and head.tokens_to_read > budget:
            return None
        return head if self._kv.fits(self._kv.blocks_of(head.num_tokens), self._num_steps) else None

    def _admit(self, sequence: Sequence) -> None:
        request = sequence.request
        if request.started_s is None:
            request.started_s = self._now_s
        sequence.to_read = sequence.tokens_to_read
        self._kv.taken += self._kv.blocks_of(sequence.num_tokens)
        self._kv_tokens += sequence.num_tokens - sequence.to_read
        self._running[request] = self._reading[request] = sequence

    def _mixed_s(self, chunks: list[tuple[Sequence, int]]) -> float:
        begun = sum(
            sequence.to_read == sequence.tokens_to_read and not sequence.request.num_preemptions
            for sequence, _ in chunks
        )
        prefill_tokens = sum(tokens for _, tokens in chunks)
        num_running = self._kv.num_growing + len(chunks)
        return self._slowness * self._step_times.step_s(
            num_running, self._kv_tokens, prefill_tokens, begun
        )

    # ---- after steps ----

    def _decode(self, num_steps: int) -> None:
        """`num_steps` steps in which nothing but decoding happens."""
        self._now_s += self._decode_s(num_steps)
        self._grow(num_steps)
        self._happen()

    def _grow(self, num_steps: int) -> None:
        self._kv.grow(self._num_steps, num_steps)
        self._kv_tokens += num_steps * self._kv.num_growing
        self._num_steps += num_steps

    def _read(self, step: _MixedStep) -> None:
        self._mixed = None
        self._now_s = step.ends_s
        self._grow(1)
        for sequence, tokens in step.chunks:
            if sequence.request not in self._reading:
                continue  # its client left while the step ran
            sequence.to_read -= tokens
            self._kv_tokens += tokens
            if not sequence.to_read:
                self._begin_decoding(sequence)
        self._happen()

    def _begin_decoding(self, sequence: Sequence) -> None:
        """The step that read the last of the prompt has made a token."""
        request = sequence.request
        del self._reading[request]
        if request.first_token_s is None:
            request.first_token_s = self._now_s
        sequence.base = self._num_steps - sequence.num_outputs - 1
        sequence.phase = self._kv.begin_growing(sequence.num_tokens, self._num_steps)
        if request.answer_tokens and request.first_answer_s is None:
            self._at(sequence.base + request.think_tokens + 1, sequence)
        self._at(sequence.base + request.output_tokens, sequence)

    def _at(self, step: int, sequence: Sequence) -> None:
        heapq.heappush(self._events, (step, next(self._order), sequence.run, sequence))

    def _happen(self) -> None:
        """First answer tokens and ends of the steps so far."""
        while self._events and self._events[0][0] <= self._num_steps:
            _, _, run, sequence = heapq.heappop(self._events)
            if run != sequence.run:
                continue
            request = sequence.request
            num_outputs = self._num_steps - sequence.base
            if request.answer_tokens and num_outputs == request.think_tokens + 1:
                request.first_answer_s = self._now_s
            if num_outputs == request.output_tokens:
                request.ended_s = self._now_s
                self._leave(sequence)
                del self._sequences[request]
                self._ended.append(request)

    def _leave(self, sequence: Sequence) -> None:
        """Gives up its seat and its KV; it keeps what it has generated."""
        del self._running[sequence.request]
        blocks = self._kv.blocks_of(sequence.num_tokens)
        computed = sequence.num_tokens - sequence.to_read
        if sequence.phase is None:
            del self._reading[sequence.request]
        else:
            self._kv.end_growing(sequence.phase)
            sequence.phase = None
            sequence.num_outputs = self._num_steps - sequence.base
            computed = sequence.num_tokens - 1  # the last token is yet to be run
            blocks = self._kv.blocks_of(computed)
        self._kv.taken -= blocks
        self._kv_tokens -= computed
        sequence.run += 1

    def _check(self, request: Request) -> None:
        tokens = request.prompt_tokens + request.output_tokens
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError("a request has at least one prompt token and one output token")
        if self._kv.blocks_of(tokens) > self._kv.num_blocks:
            raise ValueError(f"a request of {tokens} tokens can't fit in the engine's KV cache")
        if not self._limits.chunked_prefill and tokens > self._limits.max_num_batched_tokens:
            raise ValueError(f"{tokens} tokens can't be read in one step without chunked prefill")
