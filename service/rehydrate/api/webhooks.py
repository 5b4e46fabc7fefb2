"""``POST /v1/ably/events``: webhooks of Ably integration rules, which only wake the recorder.

The recorder reads the messages from the channel, not from the request. So nothing of a request has
to be stored, repeated deliveries are harmless, and the response need not wait for the recording.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from rehydrate.api.answers import Route
from rehydrate.api.openapi import problems
from rehydrate.api.parameters import read_bytes
from rehydrate.api.service import Service
from rehydrate.core.json import load
from rehydrate.errors import BadParameter, Unauthorized
from rehydrate.limits import ConcurrencyLimit

LIMIT_BYTES = 8 * 1024 * 1024
AT_ONCE = 8
AT_ONCE_OF_PEER = 4
ARRIVAL_S = 5.0
"""Seconds that a body may take to arrive. Knowing a key's name, which is not secret, is enough to
occupy one of the places for this long; so one address may occupy half of them."""

SECRET_HEADER = "X-Rehydrate-Secret"  # noqa: S105 - the name of a header, not a secret

_MESSAGES = "channel.message"
_EDITS = (1, 2, "message.update", "message.delete")
_REFUSAL = (
    "unauthorized webhook: sign batched requests with a configured key, or send the rule's secret"
    f" in {SECRET_HEADER}"
)


class WebhookSenders:
    """Authenticates webhooks: by a signature with an Ably key, or by a shared secret.

    Args:
        ably_keys: keys as ``appId.keyId:secret``.
        secret: the secret that unsigned requests must carry; None: they are refused.
    """

    def __init__(self, ably_keys: Collection[str], secret: str | None = None) -> None:
        pairs = (key.partition(":") for key in ably_keys)
        self._secrets = {name: secret.encode() for name, _, secret in pairs}
        self._secret = secret.encode() if secret else None

    def check_who(self, headers: Mapping[str, str]) -> None:
        """Check the headers, before the body is read.

        Raises:
            Unauthorized: neither a signature with a configured key nor the secret.
        """
        if headers.get("x-ably-signature") is not None:
            if headers.get("x-ably-key", "") not in self._secrets:
                raise Unauthorized(_REFUSAL)
        elif not self._has_secret(headers):
            raise Unauthorized(_REFUSAL)

    def check_signature(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check the signature of *body*, if the headers have one.

        Raises:
            Unauthorized: the signature is wrong.
        """
        signature = headers.get("x-ably-signature")
        if signature is None:
            return
        secret = self._secrets.get(headers.get("x-ably-key", ""), b"")
        expected = base64.b64encode(hmac.digest(secret, body, hashlib.sha256))
        if not hmac.compare_digest(expected, signature.encode("latin-1", "replace")):
            raise Unauthorized(_REFUSAL)

    def _has_secret(self, headers: Mapping[str, str]) -> bool:
        given = headers.get(SECRET_HEADER.lower(), "").encode("latin-1", "replace")
        return self._secret is not None and hmac.compare_digest(self._secret, given)


def channels_of(headers: Mapping[str, str], body: bytes) -> dict[str, int | None]:
    """Return the channels that have new messages according to the request.

    Each with the time of its oldest message that was edited, in ms since 1970; None: none was.

    Raises:
        BadParameter: the request does not have one of the forms that Ably sends.
    """
    bare = headers.get("x-ably-envelope-channel")
    if bare is not None:
        is_message = headers.get("x-ably-envelope-source", _MESSAGES) == _MESSAGES
        return {bare: None} if is_message else {}
    try:
        parsed = load(body)
    except ValueError as error:
        raise BadParameter("body", f"the body is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise BadParameter("body", "the body is neither an event nor a batch of events")
    found: dict[str, int | None] = {}
    for channel, data in _channels(parsed):
        edits = _edits_ms(data)
        known = found.get(channel)
        found[channel] = min(edits if known is None else [*edits, known], default=None)
    return found


def _edits_ms(data: Any) -> list[int]:
    messages = data.get("messages") if isinstance(data, dict) else None
    return [
        message["timestamp"]
        for message in (messages if isinstance(messages, list) else [])
        if isinstance(message, dict)
        and message.get("action") in _EDITS
        and type(message.get("timestamp")) is int
    ]


def _channels(parsed: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    items = parsed.get("items")
    for item in items if isinstance(items, list) else [parsed]:
        if not isinstance(item, dict) or item.get("source") != _MESSAGES:
            continue
        data = item.get("data")
        channel = data.get("channelId") if isinstance(data, dict) else item.get("channel")
        if isinstance(channel, str) and channel and not channel.startswith("["):
            yield channel, data


def events_router(service: Service, announcers: WebhookSenders) -> APIRouter:
    """Return the router of the webhook.

    The signature covers the raw body, so the endpoint takes the request itself and declares no
    pydantic body.
    """
    made = APIRouter(route_class=Route, tags=["operations"])
    limit = ConcurrencyLimit(AT_ONCE, "webhooks", share=AT_ONCE_OF_PEER, owner="address")

    async def announce(request: Request) -> Response:
        announcers.check_who(request.headers)
        with limit.of(request.client.host if request.client else None):
            body = await read_bytes(request, LIMIT_BYTES, ARRIVAL_S)
            announcers.check_signature(request.headers, body)
            service.record_soon(channels_of(request.headers, body))
        return Response(status_code=204, headers={"Cache-Control": "no-store"})

    made.add_api_route(
        "/v1/ably/events",
        announce,
        methods=["POST"],
        status_code=204,
        response_class=Response,
        summary="Receive a webhook of an Ably integration rule",
        description="Batched, with Ably's signature; or enveloped or bare, with the rule's secret "
        f"in `{SECRET_HEADER}`. It only makes the recorder read the channels; the messages in the "
        "request are ignored.",
        responses=problems(401, 408, 413, 422, 429, 500),
    )
    return made
