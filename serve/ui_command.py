"""`r1-serve ui`: the playground of a running server, in the browser."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
import webbrowser
from typing import Annotated
from urllib.parse import urlsplit

import typer

from serve.commands import clear_errors
from serve.keys import is_loopback
from serve.settings import SettingsError

TIMEOUT_S = 5.0


def ui(
    url: Annotated[
        str, typer.Option("--url", help="The endpoint: a running `r1-serve up` or `router`.")
    ] = "http://127.0.0.1:8000",
) -> None:
    """Open the playground of a running server in the browser."""
    from serve.discovery import engine_url

    with clear_errors():
        page = f"{engine_url(url)}/ui/"
        _look(page)
        typer.echo(f"The playground is at {page}")
        webbrowser.open(page)


def _look(page: str) -> None:
    """Raises `SettingsError` where there is no playground."""
    # No proxy leads there, whatever `http_proxy` says; browsers keep to that too.
    direct = is_loopback(urlsplit(page).hostname or "")
    handlers = [urllib.request.ProxyHandler({})] if direct else []
    opener = urllib.request.build_opener(*handlers)
    try:
        opener.open(page, timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError as exc:
        exc.close()
        advice = ""
        if exc.code == 404:
            advice = (
                ": the server there has no playground; "
                "`server.playground = true` in its settings serves it"
            )
        raise SettingsError(f"{page} answers {exc.code} {exc.reason}{advice}") from exc
    except http.client.HTTPException as exc:
        raise SettingsError(f"what answers at {page} isn't an HTTP server") from exc
    except OSError as exc:
        raise SettingsError(
            f"nothing answers at {page} ({exc}); `make serve` or `r1-serve up` starts a server, "
            "--url names another"
        ) from exc
