"""Gets files from a model hub over HTTP, with Python's own `urllib`: it knows proxies and
certificates (`HTTPS_PROXY`, `SSL_CERT_FILE`), and the router's image needs nothing more.

Each failure is either `Lost`, which another try may mend, or a `ModelError` with what to do.
"""

from __future__ import annotations

import email.message
import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import IO
from urllib.parse import urlsplit

from serve import __version__
from serve.models.hubs import Hub
from serve.models.store import ModelError

SILENCE_S = 30.0
"""Longest wait for a connection or for the next bytes."""
MAX_LISTING_BYTES = 64 << 20
_PASSING = {408, 425, 429, 500, 502, 503, 504}


class Lost(Exception):
    """No answer, or not the whole of it; `after_s` is how long the hub asks to wait."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class HubClient:
    """Speaks with one hub about one repository. The token goes to the hub's own address only, not
    to the store of large files that it redirects to."""

    def __init__(self, hub: Hub, endpoint: str, repo: str, silence_s: float = SILENCE_S) -> None:
        self.hub = hub
        self.endpoint = endpoint
        self.repo = repo
        self._silence_s = silence_s
        self._opener = urllib.request.build_opener(_Redirects(endpoint, hub.credentials()))

    def get(self, url: str) -> bytes:
        """The whole body. Raises as `open`."""
        with self.open(url) as answer:
            try:
                body = answer.read(MAX_LISTING_BYTES)
            except (OSError, http.client.HTTPException) as exc:
                raise Lost(words_of(exc)) from exc
            if answer.length:
                raise Lost("the answer was cut off")
            return body

    def open(self, url: str, offset: int = 0) -> http.client.HTTPResponse:
        """The answer, from byte `offset` on if the hub does as it is asked: the status tells.
        Raises `Lost` and `ModelError`."""
        request = urllib.request.Request(url, headers={"User-Agent": f"r1-serve/{__version__}"})
        if offset:
            request.add_header("Range", f"bytes={offset}-")
        for name, value in self.hub.credentials().items():
            request.add_unredirected_header(name, value)
        try:
            answer: http.client.HTTPResponse = self._opener.open(request, timeout=self._silence_s)
        except urllib.error.HTTPError as exc:
            exc.close()
            raise self._refusal(exc) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise self._unreached(exc) from exc
        return answer

    def _unreached(self, exc: Exception) -> Exception:
        reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
        if isinstance(reason, ssl.SSLCertVerificationError):
            return ModelError(
                f"{self.endpoint} shows a certificate that isn't trusted here "
                f"({reason.verify_message}); install the system's CA certificates, or name a file "
                "of them in SSL_CERT_FILE"
            )
        return Lost(words_of(reason))

    def _refusal(self, exc: urllib.error.HTTPError) -> Exception:
        code, message = exc.headers.get("X-Error-Code"), exc.headers.get("X-Error-Message") or ""
        at = f"{self.repo} on {self.endpoint}"
        token = self.hub.token_env
        if exc.code in _PASSING:
            return Lost(f"HTTP {exc.code} {exc.reason}", _retry_after_s(exc.headers))
        if code == "GatedRepo":
            return ModelError(
                f"{at} is gated: accept its terms at {self.endpoint}/{self.repo}, and set {token} "
                "to a token of that account"
            )
        if "Invalid credentials" in message:
            return ModelError(
                f"{self.endpoint} doesn't know the token in {token}; renew or unset it"
            )
        if code == "RevisionNotFound":
            return ModelError(f"{at} has no such --revision")
        if exc.code in (401, 403, 404):
            return ModelError(
                f"There is no {at}, or it isn't public: check the name, or set {token} to the "
                f"token of an account that may read it (HTTP {exc.code})"
            )
        return ModelError(f"{exc.url} answers HTTP {exc.code} {exc.reason} {message}".rstrip())


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Gives the token along as long as the address stays the hub's, as for a renamed repository."""

    def __init__(self, endpoint: str, credentials: Mapping[str, str]) -> None:
        self._origin = _origin(endpoint)
        self._credentials = credentials

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and _origin(newurl) == self._origin:
            for name, value in self._credentials.items():
                request.add_unredirected_header(name, value)
        return request


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _retry_after_s(headers: email.message.Message) -> float | None:
    """Seconds only: the hubs send no dates."""
    try:
        return max(0.0, float(headers.get("Retry-After", "")))
    except ValueError:
        return None


def words_of(exc: object) -> str:
    text = (exc.strerror or str(exc)) if isinstance(exc, OSError) else str(exc)
    return text or type(exc).__name__
