"""Ably JWTs, as an application would issue them."""

from __future__ import annotations

import json
import time

import jwt

KEY = "app1.key1:0123456789abcdef0123456789abcdef"
OTHER_KEY = "app1.key2:fedcba9876543210fedcba9876543210"
SERVICE_KEY = "service-key-of-a-backend"
ADMIN_KEY = "admin-key-of-an-operator"


def mint(capability=None, *, key=KEY, ttl_s=86_400, headers=None, **claims):
    """Return a JWT; *capability* is a dict or the value of the claim; None: no claim."""
    name, _, secret = key.partition(":")
    now_s = int(time.time())
    payload = {"iat": now_s, "exp": now_s + ttl_s, **claims}
    if capability is not None:
        as_text = isinstance(capability, dict)
        payload["x-ably-capability"] = json.dumps(capability) if as_text else capability
    payload = {name: value for name, value in payload.items() if value is not None}
    headers = {"kid": name, **(headers or {})}
    headers = {name: value for name, value in headers.items() if value is not None}
    return jwt.encode(payload, secret, "HS256", headers=headers)


def bearer(token):
    """Return the Authorization header of *token*."""
    return {"Authorization": f"Bearer {token}"}


READER = {"ai:*": ["history", "subscribe"]}
