"""Sessions: an HttpOnly cookie, and conversation ids that start with their owner's name.

This example has anonymous visitors only. With a login, `owner_of` would return the user of your
session, and `is_mine` would ask your database whether the conversation belongs to that user.
"""

from __future__ import annotations

import hashlib
import secrets

from fastapi import HTTPException, Request, Response

COOKIE = "chat_session"
_COOKIE_S = 30 * 24 * 3600


def begin_session(request: Request, response: Response) -> None:
    """Set a session cookie if the request has none."""
    if COOKIE not in request.cookies:
        response.set_cookie(
            COOKIE,
            secrets.token_urlsafe(32),
            max_age=_COOKIE_S,
            httponly=True,
            secure=request.url.scheme == "https",
            samesite="strict",  # other sites cannot send the cookie, so they cannot post for the user
        )


def owner_of(request: Request) -> str:
    """Return the name of the session's owner, which does not reveal the session's secret.

    Raises:
        HTTPException: 401 if the request has no session.
    """
    session = request.cookies.get(COOKIE)
    if not session:
        raise HTTPException(401, "No session. Load the page first.")
    return hashlib.sha256(session.encode()).hexdigest()[:32]


def same_origin(request: Request) -> None:
    """Refuse requests from other origins, including the same site on another port.

    Raises:
        HTTPException: 403 for a request from another origin.
    """
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise HTTPException(403, "Requests from other origins are not allowed.")


def is_mine(request: Request, conversation_id: str) -> bool:
    """Return whether the conversation belongs to the session; the ``authorize`` of the router."""
    return secrets.compare_digest(
        conversation_id.partition("-")[0].encode(), owner_of(request).encode()
    )
