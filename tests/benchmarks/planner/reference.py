"""The simulated engine as plainly as it can be written: a loop over steps, a list of sequences."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.planner.engine_sim import Limits, Request, StepTimes


@dataclass(eq=False)
class Plain:
    request: Request
    order: int
    outputs: int = 0
    computed: int = 0
    target: int = 0
    decoding: bool = False

    @property
    def key(self):
        return (self.request.priority, self.request.arrived_s, self.order)


def run_plainly(
    requests: list[Request], step_times: StepTimes, limits: Limits
) -> tuple[list[Request], int]:
    """The requests in the order of their ends, and the most KV blocks that were taken."""
    size = limits.block_tokens
    total = limits.kv_tokens // size

    def blocks(tokens: int) -> int:
        return -(-tokens // size)

    coming = [Plain(request, order) for order, request in enumerate(requests)]
    waiting: list[Plain] = []
    running: list[Plain] = []
    ended: list[Request] = []
    now_s, most = 0.0, 0
    while coming or waiting or running:
        if not waiting and not running:
            now_s = max(now_s, coming[0].request.arrived_s)
        while coming and coming[0].request.arrived_s <= now_s:
            waiting.append(coming.pop(0))

        def taken() -> int:
            # A prompt's blocks are taken at admission, a decoding sequence's as it grows.
            return sum(blocks(s.computed + 1 if s.decoding else s.target) for s in running)

        preempted = False
        while taken() > total:
            victim = max(running, key=lambda s: s.key)
            running.remove(victim)
            waiting.append(victim)
            victim.computed, victim.decoding = 0, False
            victim.request.num_preemptions += 1
            preempted = True
        budget = limits.max_num_batched_tokens - sum(s.decoding for s in running)
        kv_tokens = sum(s.computed for s in running)
        chunks: dict[Plain, int] = {}
        for s in running:
            if not s.decoding and budget:
                chunks[s] = min(budget, s.target - s.computed)
                budget -= chunks[s]
        begun = 0
        while not preempted and waiting and budget and len(running) < limits.max_num_seqs:
            head = min(waiting, key=lambda s: s.key)
            target = head.request.prompt_tokens + head.outputs
            computed = min(head.request.cached_tokens, target - 1)
            if not limits.chunked_prefill and target - computed > budget:
                break
            if taken() + blocks(target) > total:
                break
            waiting.remove(head)
            running.append(head)
            head.target, head.computed = target, computed
            kv_tokens += computed
            if head.request.started_s is None:
                head.request.started_s = now_s
            begun += not head.request.num_preemptions
            chunks[head] = min(budget, target - computed)
            budget -= chunks[head]
        most = max(most, taken())
        num_running = len(chunks) + sum(s.decoding for s in running)
        now_s += step_times.step_s(num_running, kv_tokens, sum(chunks.values()), begun)
        for s in list(running):
            if s.decoding:
                s.computed += 1
                s.outputs += 1
            elif s in chunks:
                s.computed += chunks[s]
                if s.computed == s.target:
                    s.decoding = True
                    s.outputs += 1
            request = s.request
            if not s.decoding:
                continue
            if request.first_token_s is None:
                request.first_token_s = now_s
            first_answer = s.outputs == request.think_tokens + 1 and request.answer_tokens
            if first_answer and request.first_answer_s is None:
                request.first_answer_s = now_s
            if s.outputs == request.output_tokens:
                request.ended_s = now_s
                running.remove(s)
                ended.append(request)
    return ended, most
