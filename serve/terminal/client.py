"""The HTTP of a chat: what a server has, and replies as they come."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar
from urllib.parse import quote

import msgspec

from serve.batch import BUSY, UNAUTHORIZED, EndpointError, retry_after_s
from serve.connection import ConnectFailed
from serve.engine_reply import Reply as HttpReply
from serve.errors import TooManyRequests, UpstreamError
from serve.sse import SSEDecoder, SSETooLong
from serve.terminal.reply import Piece, Reply, StreamFailed
from serve.terminal.slash import Known
from serve.upstream import EngineClient
from serve.wire import UNREADABLE, EngineFault

CONNECT_TIMEOUT_S = 10.0
SILENCE_S = 3600.0
"""A person ends what takes too long."""
KEY_VARIABLE = "R1_API_KEY"

T = TypeVar("T")


class ChatError(EndpointError):
    """No reply, or none to its end; the message says why. `retry_after_s`: when the same request
    may come back, where the server puts it off."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


Show = Callable[[list[Piece]], None]
PutOff = Callable[[ChatError, float], Awaitable[None]]
"""Returns after so many seconds; it may tell why, or raise."""


class _Id(msgspec.Struct):
    id: str
    description: str = ""


class _Failure(msgspec.Struct):
    error: EngineFault


class _Models(msgspec.Struct):
    data: list[_Id]


class _Presets(msgspec.Struct):
    data: list[_Id]
    default: str
    reasoning_effort: dict[str, int] = {}


class Client:
    """Of the server at `url`, with or without `/v1` at its end. Closing it is `close`'s."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._key = key
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = EngineClient(
            self.url, connect_timeout_s=CONNECT_TIMEOUT_S, idle_timeout_s=SILENCE_S
        )

    async def known(self) -> Known:
        """Raises `ChatError`."""
        presets = await self._get("/v1/presets", _Presets)
        by_name = {it.id: it.description for it in presets.data}
        return Known(by_name, presets.default, tuple(presets.reasoning_effort))

    async def models(self) -> list[str]:
        """Those that are served; none as long as no engine is ready. Raises `ChatError`."""
        models = await self._get("/v1/models", _Models)
        return [it.id for it in models.data]

    async def check_model(self, name: str) -> None:
        """Raises `ChatError` with what the server says of a model, or `model:preset`, that it
        doesn't have."""
        await self._get(f"/v1/models/{quote(name, safe=':')}", _Id)

    async def chat(self, body: bytes, reply: Reply, show: Show) -> None:
        """Folds the reply to a request into `reply` as it comes; `show` gets what each part brings,
        also where that is only a vote's progress. Raises `ChatError`. Cancelling it closes the
        connection, with which the work on the engine ends."""
        decoder = SSEDecoder(on_comment=reply.comment)
        async with await self._ask("POST", "/v1/chat/completions", body) as http:
            reply.begin(http.headers)
            try:
                while chunk := await self._tried(http.read()):
                    now_s = time.monotonic()
                    show([it for event in decoder.feed(chunk) for it in reply.add(event, now_s)])
            except (StreamFailed, SSETooLong) as exc:
                raise ChatError(str(exc)) from exc
        if not reply.done:
            raise ChatError("the connection broke off in the middle of the reply")

    async def chat_when_told(self, body: bytes, reply: Reply, show: Show, put_off: PutOff) -> None:
        """As `chat`, asked again when the server says so, with the very same bytes: by them it
        knows who has an appointment (docs/decisions/0006). `reply` counts from the last time."""
        while True:
            try:
                return await self.chat(body, reply, show)
            except ChatError as exc:
                if exc.retry_after_s is None:
                    raise
                await put_off(exc, exc.retry_after_s)
                reply.asked_s = time.monotonic()

    def close(self) -> None:
        self._http.close()

    async def _get(self, path: str, kind: type[T]) -> T:
        async with await self._ask("GET", path) as http:
            body = await self._tried(http.read_all())
        try:
            return msgspec.json.decode(body, type=kind)
        except UNREADABLE as exc:
            raise ChatError(
                f"the server at {self.url} is no r1-serve: it answers {path} with other things"
            ) from exc

    async def _ask(self, method: str, path: str, body: bytes = b"") -> HttpReply:
        """A good reply. Raises `ChatError`."""
        http = await self._tried(self._http.request(method, path, body, self._headers))
        if http.status == 200:
            return http
        async with http:
            text = await self._tried(http.read_all())
        raise self._refusal(path, http.status, http.headers, text)

    async def _tried(self, work: Awaitable[T]) -> T:
        """What goes wrong on the way, in words that are about a server."""
        try:
            return await work
        except ConnectFailed as exc:
            cause = exc.__cause__
            why = getattr(cause, "strerror", None) or str(cause) or "no answer"
            raise ChatError(
                f"nothing answers at {self.url} ({why}); `make serve` or `r1-serve up` starts a "
                "server, --url names another"
            ) from exc
        except UpstreamError as exc:
            raise ChatError(f"the connection to {self.url} broke off") from exc

    def _refusal(
        self, path: str, status: int, headers: Mapping[str, str], body: bytes
    ) -> ChatError:
        message, code = _fault(body)
        message = message or f"the server at {self.url} answers {status} to {path}"
        if status in UNAUTHORIZED:
            if self._key:
                message = (
                    f"the server at {self.url} doesn't take the key in {KEY_VARIABLE}: {message}"
                )
            else:
                message = f"the server at {self.url} wants a key: put yours into {KEY_VARIABLE}"
        elif code == TooManyRequests.code:
            message = "the server is full; it keeps a place for this question"
        return ChatError(message, retry_after_s(headers) if status in BUSY else None)


def _fault(body: bytes) -> tuple[str | None, object]:
    """Message and code of an error reply; None where it isn't in OpenAI's form."""
    try:
        fault = msgspec.json.decode(body, type=_Failure).error
    except UNREADABLE:
        return None, None
    return fault.message, fault.code
