"""The page that a browser gets: what this is, which channels there are, how to use it."""

from __future__ import annotations

from importlib.resources import files

from aiohttp import web

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


def show(_: web.Request) -> web.Response:
    """Return the page."""
    text = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
    return web.Response(text=text, content_type="text/html", headers=headers)
