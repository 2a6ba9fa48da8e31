"""The exception tree. Each class carries its HTTP status and becomes an OpenAI-style error body.

`{"error": {"message", "type", "param", "code"}}` is the form of
https://platform.openai.com/docs/guides/error-codes, which the official SDKs map to their own
exception types by status.
"""

from __future__ import annotations

import math
from typing import ClassVar

import msgspec

FAILED = "the router failed on this request; its log says why"


class ServeError(Exception):
    """Base of every error that a client may see. `param` names the offending field, if one does."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """The JSON body, also used as the data of a stream's error event."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return msgspec.json.encode({"error": error})

    def headers(self) -> dict[str, str]:
        """When to come back: rounded up in whole seconds (RFC 9110, 10.2.3), and exactly in the
        header that OpenAI's SDKs read first."""
        if self.retry_after_s is None:
            return {}
        return {
            "retry-after": str(max(1, math.ceil(self.retry_after_s))),
            "retry-after-ms": str(max(1, math.ceil(self.retry_after_s * 1000))),
        }


class InvalidRequest(ServeError):
    """The request itself is at fault; sending it again unchanged cannot succeed."""

    status = 400
    kind = "invalid_request_error"
    code = "invalid_value"


class MalformedJSON(InvalidRequest):
    code = "malformed_json"


class MalformedHTTP(InvalidRequest):
    code = "malformed_http"


class HeadersTooLarge(InvalidRequest):
    status = 431
    code = "headers_too_large"


class UnknownField(InvalidRequest):
    code = "unknown_parameter"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class ModelNotFound(InvalidRequest):
    status = 404
    code = "model_not_found"


class RouteNotFound(InvalidRequest):
    status = 404
    code = "not_found"


class MethodNotAllowed(InvalidRequest):
    status = 405
    code = "method_not_allowed"


class BodyTooLarge(InvalidRequest):
    status = 413
    code = "body_too_large"


class InvalidKey(InvalidRequest):
    """No key, or one that isn't known. What was sent is never repeated."""

    status = 401
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {"www-authenticate": "Bearer"}


class TooManyRequests(ServeError):
    """The router is at its limit; `retry_after_s` says when to come back, `reason` (for metrics)
    what the limit was."""

    status = 429
    kind = "rate_limit_error"
    code = "too_many_requests"

    def __init__(self, message: str, *, reason: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.reason = reason


class RateLimitExceeded(TooManyRequests):
    """A key is at one of its own limits."""

    code = "rate_limit_exceeded"


class NotReady(ServeError):
    """No replica can take the request now."""

    status = 503
    code = "engine_not_ready"
    reason = "not_ready"
    """For metrics, as a `TooManyRequests` has one."""


class ShuttingDown(NotReady):
    """The router is leaving: refused, or cut short at the drain's limit."""

    code = "shutting_down"
    reason = "shutting_down"


class UpstreamError(ServeError):
    """The engine failed: it refused, broke off or answered what could not be understood."""

    status = 502
    code = "engine_error"


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "engine_timeout"


class EngineRejected(InvalidRequest):
    """The engine called the request invalid (its 4xx): its own message is passed on."""

    code = "rejected_by_engine"


class ClientGone(Exception):
    """The client hung up. Nobody is left to answer; it is counted, never sent."""


def outcome_of(error: ServeError) -> str:
    """How a request is counted that ended so."""
    if isinstance(error, InvalidRequest):
        return "invalid"
    if isinstance(error, NotReady):
        return "unavailable"
    return "rejected" if isinstance(error, TooManyRequests) else "error"
