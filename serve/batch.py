"""Bulk jobs against a running endpoint: many requests under way, each line answered once.

They ask for the tier that waits for everyone else (`service_tier: "flex"`), so that a job may run
beside interactive use. What may succeed later is tried again; what can't is an answer as well.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping

import msgspec

from serve.batch_files import Answer, BadRequest, Failure, Job, Line, Response, parse
from serve.connection import ConnectFailed
from serve.errors import UpstreamError
from serve.supervise import end
from serve.upstream import EngineClient, message_in
from serve.wire import UNREADABLE

MAX_TRIES = 5
"""Of a request that breaks connections or makes the server fail: it may itself be at fault."""
FIRST_WAIT_S = 0.5
MAX_WAIT_S = 30.0
GIVE_UP_S = 600.0
"""An endpoint that doesn't work for so long is taken to be gone."""
SILENCE_S = 3600.0
"""Nothing comes before the whole answer is there."""

UNAUTHORIZED = (401, 403)
BUSY = (429, 503)
FAULTS = (408, 500, 502, 504)


class EndpointError(RuntimeError):
    """The job can't go on; what was answered stays."""


class Endpoint:
    """An OpenAI-compatible server."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._client = EngineClient(self.url, connect_timeout_s=10, idle_timeout_s=SILENCE_S)
        self._headers = {} if key is None else {"authorization": f"Bearer {key}"}

    async def check(self) -> None:
        """Raises `EndpointError` where a job would be for nothing."""
        try:
            await self.ask("GET", "/v1/models")
        except UpstreamError as exc:
            raise EndpointError(
                f"nothing answers at {self.url} ({exc.message}); start it with `r1-serve up`, or "
                "say with --url where it is"
            ) from exc

    async def works(self) -> bool:
        """Whether it answers what is easy: then a request that fails may itself be at fault."""
        try:
            response, _ = await self.ask("GET", "/v1/models")
        except UpstreamError:
            return False
        return response.status_code == 200

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[Response, float | None]:
        """The response, and how long it asks to wait. Raises `UpstreamError`, and `EndpointError`
        where the key is refused."""
        async with await self._client.request(method, path, body, self._headers) as reply:
            text = await reply.read_all()
        request_id = reply.headers.get("x-request-id", "")
        response = Response(reply.status, request_id, _on_one_line(text))
        if reply.status in UNAUTHORIZED:
            why = message_in(text) or f"status {reply.status}"
            raise EndpointError(f"{self.url} doesn't take the key in R1_API_KEY: {why}")
        return response, retry_after_s(reply.headers)

    async def sweep(self) -> None:
        """Drops connections that are no use any more, until cancelled."""
        while True:
            await asyncio.sleep(1)
            self._client.sweep(asyncio.get_running_loop().time())

    def close(self) -> None:
        self._client.close()


def _on_one_line(text: bytes) -> msgspec.Raw:
    """JSON; what isn't becomes a string."""
    try:
        value = msgspec.json.decode(text, type=msgspec.Raw)
        return msgspec.Raw(msgspec.json.format(value, indent=-1)) if b"\n" in text else value
    except UNREADABLE:
        return msgspec.Raw(msgspec.json.encode(text.decode(errors="replace")))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """In the header of OpenAI's SDKs, else in whole seconds; a date is not understood."""
    for name, seconds in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return float(headers[name]) * seconds
        except (KeyError, ValueError):
            continue
    return None


class Batch:
    """Runs a job, whose own numbers tell how far it is."""

    def __init__(self, job: Job, endpoint: Endpoint, num_concurrent: int) -> None:
        self._job = job
        self._endpoint = endpoint
        self._num_concurrent = num_concurrent
        self._lines: Iterator[Line] = iter(())

    async def run(self) -> None:
        """Returns when every line has an answer. Raises `EndpointError`; what is under way then, or
        when this is cancelled, stays unanswered and ends on the server too."""
        self._lines = self._job.unanswered()
        sweeping = asyncio.create_task(self._endpoint.sweep())
        try:
            await self._endpoint.check()
            async with asyncio.TaskGroup() as group:
                for _ in range(self._num_concurrent):
                    group.create_task(self._work())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await end(sweeping)
            self._endpoint.close()

    async def _work(self) -> None:
        for line in self._lines:
            self._job.write(await self._answer(line))

    async def _answer(self, line: Line) -> Answer:
        try:
            request = parse(line)
        except BadRequest as exc:
            return Answer(line.id, line.custom_id, error=Failure("invalid_request", str(exc)))
        tier = {} if "priority" in request.body else {"service_tier": msgspec.Raw(b'"flex"')}
        body = msgspec.json.encode(tier | request.body)
        response, error = await self._ask_until_answered(request.url, body)
        failure = None if error is None else Failure("connection_error", error.message)
        return Answer(line.id, request.custom_id, response, failure)

    async def _ask_until_answered(
        self, path: str, body: bytes
    ) -> tuple[Response | None, UpstreamError | None]:
        """The response, or why there is none after `MAX_TRIES`. Busy is no answer."""
        num_tries, wait_s = 0, FIRST_WAIT_S
        down_since_s: float | None = None
        while True:
            response, error, asked_s = None, None, None
            try:
                response, asked_s = await self._endpoint.ask("POST", path, body)
            except UpstreamError as exc:
                error = exc
            status = response.status_code if response else None
            if status not in (None, *BUSY, *FAULTS):
                return response, None
            if status not in BUSY:
                if await self._endpoint.works():
                    down_since_s = None
                    num_tries += not isinstance(error, ConnectFailed)
                else:
                    down_since_s = down_since_s or time.monotonic()
            if num_tries >= MAX_TRIES:
                return response, error
            if down_since_s is not None and time.monotonic() - down_since_s > GIVE_UP_S:
                why = error.message if error else f"status {status}"
                raise EndpointError(
                    f"{self._endpoint.url} hasn't worked for {GIVE_UP_S:g} s: {why}"
                )
            await asyncio.sleep(max(asked_s or 0, wait_s) * random.uniform(1, 1.25))
            wait_s = min(2 * wait_s, MAX_WAIT_S)
