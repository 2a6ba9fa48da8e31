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
    """The router failed on this request; its log says why.

    Base of every error that a client may see, of which the reference of the API tells the first
    sentence. `param` names the offending field, if one does.
    """

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
    """A field has a wrong value; sending the request again unchanged cannot succeed."""

    status = 400
    kind = "invalid_request_error"
    code = "invalid_value"


class MalformedJSON(InvalidRequest):
    """The body isn't a JSON object in UTF-8."""

    code = "malformed_json"


class MalformedHTTP(InvalidRequest):
    """The request isn't HTTP."""

    code = "malformed_http"


class HeadersTooLarge(InvalidRequest):
    """The headers are larger than the server takes."""

    status = 431
    code = "headers_too_large"


class UnknownField(InvalidRequest):
    """A field that nobody knows; the message has the nearest right name."""

    code = "unknown_parameter"


class ContextLengthExceeded(InvalidRequest):
    """The prompt is too long for the model; the message says by how much."""

    code = "context_length_exceeded"


class ModelNotFound(InvalidRequest):
    """No such model; the message lists those that are served."""

    status = 404
    code = "model_not_found"


class RouteNotFound(InvalidRequest):
    """No such path."""

    status = 404
    code = "not_found"


class MethodNotAllowed(InvalidRequest):
    """The path has no such method."""

    status = 405
    code = "method_not_allowed"


class BodyTooLarge(InvalidRequest):
    """The body is larger than `server.max_body_bytes`."""

    status = 413
    code = "body_too_large"


class InvalidKey(InvalidRequest):
    """No key, or one that isn't known. What was sent is never repeated."""

    status = 401
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {"www-authenticate": "Bearer"}


class TooManyRequests(ServeError):
    """No slot is free, and the line is full or the wait was too long: come back after
    `Retry-After`. `reason` (for metrics) is what the limit was."""

    status = 429
    kind = "rate_limit_error"
    code = "too_many_requests"

    def __init__(self, message: str, *, reason: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.reason = reason


class RateLimitExceeded(TooManyRequests):
    """The key is at one of its own limits, which the message names."""

    code = "rate_limit_exceeded"


class NotReady(ServeError):
    """No engine can take the request now: come back after `Retry-After`."""

    status = 503
    code = "engine_not_ready"
    reason = "not_ready"
    """For metrics, as a `TooManyRequests` has one."""


class ShuttingDown(NotReady):
    """The router is leaving: the request was refused, or cut short at the drain's limit."""

    code = "shutting_down"
    reason = "shutting_down"


class UpstreamError(ServeError):
    """The engine failed: it refused, broke off, or answered what could not be understood."""

    status = 502
    code = "engine_error"


class UpstreamTimeout(UpstreamError):
    """The engine was silent for too long, or is stuck."""

    status = 504
    code = "engine_timeout"


class EngineRejected(InvalidRequest):
    """The engine called the request invalid; its own message is passed on."""

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
