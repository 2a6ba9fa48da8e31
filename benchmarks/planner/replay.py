"""A load of known requests on one simulated engine: what `benchmarks.planner.drive` does to a real
one. Times are seconds since the load began."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from benchmarks.planner.engine_sim import Engine, Request
from benchmarks.planner.samples import Sample, Size
from benchmarks.planner.simulate import EngineModel


def closed(
    model: EngineModel, sizes: Sequence[Size], num_clients: int, seconds: float
) -> list[Sample]:
    """Clients that never pause, until `seconds` are over; then they end what they have. Client i
    takes every `num_clients`-th size from the i-th on."""
    starts = [(0.0, number, number) for number in range(num_clients)]
    return _run(model, sizes, starts, num_clients, seconds)


def open_loop(model: EngineModel, sizes: Sequence[Size], times_s: Sequence[float]) -> list[Sample]:
    """The i-th request is sent at the i-th of `times_s`."""
    starts = [(at_s, number, number) for number, at_s in enumerate(times_s)]
    return _run(model, sizes, starts, 0, 0.0)


def _run(
    model: EngineModel,
    sizes: Sequence[Size],
    sends: list[tuple[float, int, int]],
    num_clients: int,
    seconds: float,
) -> list[Sample]:
    """`sends`: when, an order, the request's number. The client who got the end of request i sends
    i + `num_clients`."""
    engine, samples = Engine(model.step_times, model.limits), []
    numbers: dict[Request, int] = {}
    heapq.heapify(sends)
    while sends or engine.num_requests:
        event_s = engine.next_event_s()
        if sends and (event_s is None or sends[0][0] + model.outside_s <= event_s):
            at_s, _, number = heapq.heappop(sends)
            size = sizes[number % len(sizes)]
            request = Request(at_s, size.prompt_tokens, size.output_tokens, 0)
            numbers[request] = number
            engine.submit(request, at_s + model.outside_s)
            continue
        for request in engine.advance(event_s or 0.0):
            number, ended_s = numbers.pop(request), request.ended_s or 0.0
            size = sizes[number % len(sizes)]
            samples.append(Sample(size, request.arrived_s, request.first_token_s or 0.0, ended_s))
            if ended_s < seconds:
                heapq.heappush(sends, (ended_s, number, number + num_clients))
    return samples
