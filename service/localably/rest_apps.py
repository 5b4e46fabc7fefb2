"""REST: time, tokens, statistics, and the apps that test suites make for themselves."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .config import App, Key, key_from, namespace_from
from .control import check_is_local
from .errors import FrameError, RefusedError
from .frames import Format
from .messages import accepted
from .rest import HUB, answer, batch_result, body_of, identity_of, map_of

if TYPE_CHECKING:
    pass


def routes() -> list[web.RouteDef]:
    """Return the calls of this module."""
    return [
        web.get("/time", get_time),
        web.post("/keys/{key_name}/requestToken", request_token),
        web.post("/keys/{key_name}/revokeTokens", revoke_tokens),
        web.get("/stats", get_stats),
        web.post("/stats", post_stats),
        web.post("/apps", post_app),
        web.delete("/apps/{app_id}", delete_app),
    ]


async def get_time(request: web.Request) -> web.Response:
    """Return the server's time, in milliseconds."""
    return answer(request, [request.app[HUB].now_ms()])


async def request_token(request: web.Request) -> web.Response:
    """Return a token for a signed request, or for one sent with the key itself (RSA8)."""
    authenticator = request.app[HUB].authenticator
    body = await map_of(request)
    has_shown = request.headers.get("Authorization") or request.query.get("key")
    shown = identity_of(request) if has_shown and "mac" not in body else None
    details = authenticator.issue_token(request.match_info["key_name"], body, shown)
    return answer(request, details, 201)


async def revoke_tokens(request: web.Request) -> web.Response:
    """Revoke tokens of the key that authenticates the request (RSA17); targets may be refused."""
    body = await map_of(request)
    identity = identity_of(request)
    if identity.expires_ms is not None:
        raise RefusedError(40162, "tokens can only be revoked with the key itself", 401)
    if identity.key.name != request.match_info["key_name"]:
        raise RefusedError(
            40101, "the request is authenticated with a different key from the one in its path"
        )
    results = request.app[HUB].revoke_tokens(identity.key, body)
    return answer(request, batch_result(results), 201)


async def get_stats(request: web.Request) -> web.Response:
    """Return an empty list: localably keeps no statistics."""
    identity_of(request)
    return answer(request, [])


async def post_stats(request: web.Request) -> web.Response:
    """Take statistics that a test suite prepares, and do nothing with them."""
    identity_of(request)
    await body_of(request)
    return answer(request, {}, 201)


async def post_app(request: web.Request) -> web.Response:
    """Make an app with keys, namespaces and members, as Ably's test environment does."""
    check_is_local(request)
    hub = request.app[HUB]
    body = await map_of(request)
    keys, namespaces = _maps(body, "keys"), _maps(body, "namespaces")
    app = App(secrets.token_hex(3), made_by_request=True)
    made = [key_from(app.app_id, {**item, "value": None, "key": None}) for item in keys or [{}]]
    app.keys = {key.name: key for key in made}
    found = [namespace_from(item) for item in namespaces]
    app.namespaces = {namespace.id: namespace for namespace in found}
    fixtures = _fixtures(body)
    hub.apps[app.app_id] = app
    for channel_name, members in fixtures:
        channel = hub.channel(app, channel_name)
        for member in members:
            channel.members.apply(member)
    url = request.url
    address = {"endpoint": url.host, "port": url.port, "tls": request.secure}
    return answer(request, {**_described(app, made, namespaces), **address}, 201)


async def delete_app(request: web.Request) -> web.Response:
    """Delete an app that was made by a request."""
    hub = request.app[HUB]
    identity = identity_of(request)
    app_id = request.match_info["app_id"]
    if identity.app.app_id != app_id or identity.expires_ms is not None:
        raise RefusedError(40300, "an app is deleted with one of its own keys")
    if not identity.app.made_by_request:
        raise RefusedError(40300, "this app belongs to the server's configuration")
    hub.drop_app(app_id)
    return answer(request, {})


def _described(app: App, keys: list[Key], namespaces: list[dict[str, Any]]) -> dict[str, Any]:
    described = [
        {
            "id": key.key_id,
            "value": key.secret,
            "keyName": key.name,
            "keySecret": key.secret,
            "keyStr": key.value,
            "capability": str(key.capability),
            "revocableTokens": key.revocable_tokens,
        }
        for key in keys
    ]
    return {
        "appId": app.app_id,
        "id": app.app_id,
        "accountId": "localably",
        "keys": described,
        "namespaces": namespaces,
    }


def _fixtures(body: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the members that the app's channels begin with."""
    found = []
    for channel in _maps(body, "channels"):
        members = []
        for number, item in enumerate(_maps(channel, "presence")):
            member = accepted(item, Format.JSON)
            member.setdefault("clientId", f"member-{number}")
            stamp = {"id": f"fixture:{number}", "timestamp": 0, "action": 1}
            members.append({**stamp, "connectionId": "fixture", **member})
        found.append((str(channel.get("name", "")), members))
    return found


def _maps(body: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = body.get(name) or []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise FrameError(f"{name} has to be a list of maps")
    return value
