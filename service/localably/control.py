"""The control endpoint: faults, cuts and a look at the channels. For this machine only."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from .errors import FrameError, RefusedError
from .rest import HUB, answer, body_of

if TYPE_CHECKING:
    from .server import LocalAbly

PREFIX: Final = "/localably/"
SERVER: web.AppKey[LocalAbly] = web.AppKey("server")


def routes() -> list[web.RouteDef]:
    """Return the calls of this module."""
    return [
        web.get("/localably/faults", get_faults),
        web.put("/localably/faults/{name}", put_fault),
        web.delete("/localably/faults/{name}", delete_fault),
        web.delete("/localably/faults", delete_fault),
        web.post("/localably/cut", post_cut),
        web.post("/localably/expire", post_expire),
        web.post("/localably/restart", post_restart),
        web.get("/localably/channels", get_channels),
    ]


def check_is_local(request: web.Request) -> None:
    """Refuse callers on other machines, and pages of other origins.

    Raises:
        RefusedError: 40300.
    """
    host = urlsplit(f"//{request.host}").hostname or ""
    origin = request.headers.get("Origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.host
    if not _is_loopback(request.remote or "") or not _is_loopback(host) or foreign:
        raise RefusedError(40300, "this is for this machine alone")


async def get_faults(request: web.Request) -> web.Response:
    """Return every fault and whether it is on."""
    check_is_local(request)
    return answer(request, request.app[HUB].faults.listing())


async def put_fault(request: web.Request) -> web.Response:
    """Switch a fault on, with the parameters in the body."""
    check_is_local(request)
    faults = request.app[HUB].faults
    name = request.match_info["name"]
    faults.set(name, **await _parameters(request))
    return answer(request, faults.listing()[name])


async def delete_fault(request: web.Request) -> web.Response:
    """Switch one fault off, or all of them."""
    check_is_local(request)
    faults = request.app[HUB].faults
    faults.clear(request.match_info.get("name"))
    return answer(request, faults.listing())


async def post_cut(request: web.Request) -> web.Response:
    """Drop the sockets of connections, all or by `connection_id`, `client_id` or `channel`."""
    check_is_local(request)
    cut = request.app[SERVER].cut(**await _texts(request, "connection_id", "client_id", "channel"))
    return answer(request, {"cut": cut})


async def post_expire(request: web.Request) -> web.Response:
    """Forget history now, of one `channel` or of all."""
    check_is_local(request)
    expired = request.app[SERVER].expire(**await _texts(request, "channel"))
    return answer(request, {"expired": expired})


async def post_restart(request: web.Request) -> web.Response:
    """Drop everything that does not survive a restart, and every socket."""
    check_is_local(request)
    request.app[SERVER].restart()
    return answer(request, {})


async def get_channels(request: web.Request) -> web.Response:
    """Return the channels with their counts."""
    check_is_local(request)
    found = [
        {
            "app_id": channel.app_id,
            "name": channel.name,
            "messages": len(channel.log),
            "published": channel.published,
            "bytes": channel.log.size_bytes,
            "attachments": len(channel.attachments),
            "members": len(channel.members),
            "mutable": channel.mutable,
            "persisted": channel.persisted,
            "retention_s": channel.log.retention_ms / 1000,
        }
        for channel in request.app[HUB].channels()
    ]
    connections = sum(one.lost_ms is None for one in request.app[HUB].connections.values())
    return answer(request, {"channels": found, "connections": connections})


async def _parameters(request: web.Request) -> dict[str, Any]:
    body = await body_of(request)
    if body is None:
        return {}
    if not isinstance(body, dict) or not all(isinstance(name, str) for name in body):
        raise FrameError("the body has to be a map")
    return body


async def _texts(request: web.Request, *known: str) -> dict[str, str]:
    parameters = await _parameters(request)
    for name, value in parameters.items():
        if name not in known or not isinstance(value, str):
            raise FrameError(f"the body may have {', '.join(known)}, as text")
    return parameters


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
