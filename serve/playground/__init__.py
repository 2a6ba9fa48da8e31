"""The router's pages: the playground at `/ui`, and the API's description at `/docs`. The visitor's
browser asks the public API itself, with the visitor's key; the router only hands out files, and
none of it is on the path of a generation. `page/` holds the files as the browser gets them,
`page/vendor/` other people's (`scripts/vendor`).
"""

from __future__ import annotations

import functools
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles

PAGE = Path(__file__).parent / "page"
PREFIX = "/ui/"
ENTRANCES = frozenset({"/", "/ui"})
"""Paths that lead to the page."""

# What a model says is shown in this page: it may run nothing, ask nothing of other hosts (the
# address of an image can carry a conversation away), and send no form. Inline styles are KaTeX's
# and Swagger UI's.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # asked again by its ETag: a new version's modules come together
}


def add_playground(app: FastAPI) -> None:
    files = StaticFiles(directory=PAGE)

    route = functools.partial(app.api_route, methods=["GET", "HEAD"], include_in_schema=False)

    @route("/")
    @route("/ui")
    async def entrance() -> Response:
        """Relative, so that it holds behind a proxy that puts the router under a path."""
        return RedirectResponse("ui/")

    @route("/docs")
    async def docs(request: Request) -> Response:
        return await page(request, "docs.html")

    @route(PREFIX + "{path:path}")
    async def page(request: Request, path: str) -> Response:
        response = await files.get_response(path or "index.html", request.scope)
        response.headers.update(HEADERS)
        return response
