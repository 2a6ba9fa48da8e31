"""What spans say, out of a request's record. Pure.

Names are those of OpenTelemetry's semantic conventions for HTTP and GenAI where there are any, else
they begin with `r1.`. Tokens stand at the request only, so that sums over spans are right.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from serve.record import GONE_STATUS, LegRecord, Record

LEG_GIVEN_UP = "CancelledError"
"""A call that nobody wanted any more: its client is gone, or its vote decided."""

Attribute = str | bool | int | float | list[str]


def operation_of(record: Record) -> str:
    return "text_completion" if record.route == "/v1/completions" else "chat"


def is_error(record: Record) -> bool:
    """Whether it is the server's (the conventions leave a server's span alone at a 4xx)."""
    return record.status >= 500 or record.outcome == "error"


def of_request(record: Record) -> Mapping[str, Attribute]:
    output = None
    if record.answer_tokens is not None:
        output = record.answer_tokens + (record.reasoning_tokens or 0)
    return _known(
        {
            "http.request.method": record.method,
            "http.route": record.route,
            "http.response.status_code": None if record.status == GONE_STATUS else record.status,
            "error.type": record.error,
            "gen_ai.operation.name": operation_of(record),
            "gen_ai.request.model": record.model,
            "gen_ai.request.stream": record.stream,
            "gen_ai.request.choice.count": record.choices,
            "gen_ai.response.id": record.id,
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
            "gen_ai.usage.output_tokens": output,
            "gen_ai.usage.reasoning.output_tokens": record.reasoning_tokens,
            "r1.request_id": record.request_id,
            "r1.outcome": record.outcome,
            "r1.key": record.key,
            "r1.preset": record.preset,
            "r1.priority": record.priority,
            "r1.queued_ms": record.queued_ms,
            "r1.thinking_token_budget": record.thinking_token_budget,
            "r1.budget_source": record.budget_source,
            "r1.thinking_ended_by": record.thinking_ended_by,
            "r1.num_legs": record.num_legs,
        }
        | {
            f"r1.votes.{name}": told
            for name, told in (record.votes or {}).items()
            if isinstance(told, str | int | float)
        }
    )


def of_leg(record: Record, leg: LegRecord) -> Mapping[str, Attribute]:
    replica = urlsplit(leg.replica)
    return _known(
        {
            "http.request.method": "POST",
            "server.address": replica.hostname,
            "server.port": replica.port,
            "error.type": leg.error,
            "gen_ai.operation.name": operation_of(record),
            "gen_ai.request.model": record.model,
            "r1.leg.kind": leg.kind,
            "r1.leg.choice": leg.choice,
            "r1.leg.replica": leg.replica,
            "r1.leg.tokens": leg.tokens,
        }
    )


def _known(attributes: Mapping[str, Attribute | None]) -> Mapping[str, Attribute]:
    return {name: value for name, value in attributes.items() if value is not None}
