"""Static files: the inspector at ``/ui``, and ``/client.js`` for other pages.

All files are read once, when the router is created. The page refers to its files by a digest of all
of them, so that browsers cache the files forever and revalidate only the page. The inspector loads
nothing from other hosts; its content security policy enforces this: scripts and styles are files of
this service, inline ones are blocked, and text cannot become markup (no trusted types policy exists).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from rehydrate.api import answers
from rehydrate.api.answers import Route

if TYPE_CHECKING:
    from collections.abc import Mapping

_HERE = Path(__file__).parent
_UI = _HERE / "ui"
_START = "index.html"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)

_PAGE_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_MODULE_HEADERS = {"Cross-Origin-Resource-Policy": "cross-origin", **_PAGE_HEADERS}


class File(NamedTuple):
    """The content of a static file."""

    body: bytes
    type: str


def _read(path: Path) -> File:
    return File(path.read_bytes(), _TYPES[path.suffix])


def pages_router() -> APIRouter:
    """Return the routes of the static files."""
    made = APIRouter(route_class=Route)
    files = {path.name: _read(path) for path in _UI.iterdir() if path.suffix in _TYPES}
    client = _read(_HERE / "client.js")
    version = _digest(files)
    named = files[_START].body.replace(b'"ui/', b'"ui/%b/' % version.encode())
    page = File(named, files[_START].type)

    async def start(request: Request) -> Response:
        return _sent(request, page, _PAGE_HEADERS)

    async def file(request: Request) -> Response:
        """Serve a file; with another version's digest the current file, but not to be cached."""
        found = files.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        answer = _sent(request, found, _PAGE_HEADERS)
        if request.path_params["version"] == version:
            answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return answer

    async def redirect(_: Request) -> Response:
        return RedirectResponse("../ui", 308)

    async def client_module(request: Request) -> Response:
        return _sent(request, client, _MODULE_HEADERS)

    for path, endpoint in (
        ("/ui", start),
        ("/ui/", redirect),  # the page's relative URLs are relative to /ui
        ("/ui/{version}/{name}", file),
        ("/client.js", client_module),
    ):
        made.add_api_route(path, endpoint, response_class=Response, include_in_schema=False)
    return made


def _digest(files: Mapping[str, File]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(files):
        digest.update(files[name].body)
    return digest.hexdigest()


def _sent(request: Request, file: File, headers: Mapping[str, str]) -> Response:
    """Return the file, or 304 if the request's ETag matches."""
    answer = answers.settled(request, file.body)
    answer.headers.update({**headers, "Cache-Control": "no-cache"})
    if answer.status_code == 200:  # noqa: PLR2004 - not 304, which has no body
        answer.headers["Content-Type"] = file.type
    return answer
