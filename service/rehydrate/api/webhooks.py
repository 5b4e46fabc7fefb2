"""``POST /v1/ably/events``: what a rule of Ably's sends, which only wakes the recorder.

What is announced is read from the channel and not from here. So nothing has to be kept of a
request, one that is sent again does no harm, and the answer waits for nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from rehydrate.api.bodies import read_bytes
from rehydrate.api.concurrency_limit import ConcurrencyLimit
from rehydrate.api.openapi import problems
from rehydrate.api.routing import Route
from rehydrate.api.service import Service
from rehydrate.errors import BadParameter, Unauthorized

LIMIT_BYTES = 8 * 1024 * 1024
AT_ONCE = 8
ARRIVAL_S = 5.0
"""How long a body may take: whoever only knows the name of a key, which is no secret, holds a place
for no longer."""

SECRET_HEADER = "X-Rehydrate-Secret"  # noqa: S105 - the name of a header, not a secret

_MESSAGES = "channel.message"
_REFUSAL = f"sign with a configured key (batched), or show the rule's secret in {SECRET_HEADER}"


class WebhookSenders:
    """Who may announce: holders of an Ably key, by signature; rules that know a secret.

    Args:
        ably_keys: keys as ``appId.keyId:secret``.
        secret: what rules show that do not sign; None: nothing does.
    """

    def __init__(self, ably_keys: Collection[str], secret: str | None = None) -> None:
        pairs = (key.partition(":") for key in ably_keys)
        self._secrets = {name: secret.encode() for name, _, secret in pairs}
        self._secret = secret.encode() if secret else None

    def check_who(self, headers: Mapping[str, str]) -> None:
        """Return if *headers* alone do not rule it out.

        Raises:
            Unauthorized: neither a signature by a known key nor the secret.
        """
        if headers.get("x-ably-signature") is not None:
            if headers.get("x-ably-key", "") not in self._secrets:
                raise Unauthorized(_REFUSAL)
        elif not self._knows_secret(headers):
            raise Unauthorized(_REFUSAL)

    def check_signature(self, headers: Mapping[str, str], body: bytes) -> None:
        """Return if *body* is signed as *headers* say, where they say so.

        Raises:
            Unauthorized: it is not.
        """
        signature = headers.get("x-ably-signature")
        if signature is None:
            return
        secret = self._secrets.get(headers.get("x-ably-key", ""), b"")
        right = base64.b64encode(hmac.digest(secret, body, hashlib.sha256))
        if not hmac.compare_digest(right, signature.encode("latin-1", "replace")):
            raise Unauthorized(_REFUSAL)

    def _knows_secret(self, headers: Mapping[str, str]) -> bool:
        shown = headers.get(SECRET_HEADER.lower(), "").encode("latin-1", "replace")
        return self._secret is not None and hmac.compare_digest(self._secret, shown)


def channels_of(headers: Mapping[str, str], body: bytes) -> list[str]:
    """The channels on which a request says that messages were published, each once.

    Raises:
        BadParameter: it is no request of Ably's.
    """
    bare = headers.get("x-ably-envelope-channel")
    if bare is not None:
        return [bare] if headers.get("x-ably-envelope-source", _MESSAGES) == _MESSAGES else []
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadParameter("body", f"the body is no JSON: {error.msg} at {error.pos}") from error
    if not isinstance(said, dict):
        raise BadParameter("body", "the body is no event and no batch of events")
    return list(dict.fromkeys(_named(said)))


def _named(said: dict[str, Any]) -> Iterator[str]:
    items = said.get("items")
    for item in items if isinstance(items, list) else [said]:
        if not isinstance(item, dict) or item.get("source") != _MESSAGES:
            continue
        data = item.get("data")
        channel = data.get("channelId") if isinstance(data, dict) else item.get("channel")
        if isinstance(channel, str) and channel and not channel.startswith("["):
            yield channel


def events_router(service: Service, announcers: WebhookSenders) -> APIRouter:
    """The route, to be included in our own app."""
    made = APIRouter(route_class=Route, tags=["operations"])
    under_way = ConcurrencyLimit(AT_ONCE, "announcements")

    async def announce(request: Request) -> Response:
        announcers.check_who(request.headers)
        with under_way:
            body = await read_bytes(request, LIMIT_BYTES, ARRIVAL_S)
            announcers.check_signature(request.headers, body)
            service.hear(channels_of(request.headers, body))
        return Response(status_code=204, headers={"Cache-Control": "no-store"})

    made.add_api_route(
        "/v1/ably/events",
        announce,
        methods=["POST"],
        status_code=204,
        response_class=Response,
        summary="Announce messages, as a rule of Ably's does",
        description="Batched, with Ably's signature; or enveloped, or bare, with the secret of the "
        f"rule in `{SECRET_HEADER}`. It only has the conversations read: nothing else is believed.",
        responses=problems(401, 408, 413, 422, 429, 500),
    )
    return made
