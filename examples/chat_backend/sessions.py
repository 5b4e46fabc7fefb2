"""Who is who: a cookie that scripts cannot read, and conversations that carry their owner's name.

An anonymous visitor is all that this example knows. Where people log in, `owner_of` asks your
session for the user, and `is_mine` your database whether the conversation is that user's.
"""

from __future__ import annotations

import hashlib
import secrets

from fastapi import HTTPException, Request, Response

COOKIE = "chat_session"
_COOKIE_S = 30 * 24 * 3600


def begin_session(request: Request, response: Response) -> None:
    """Give whoever has none a session of his own."""
    if COOKIE not in request.cookies:
        response.set_cookie(
            COOKIE,
            secrets.token_urlsafe(32),
            max_age=_COOKIE_S,
            httponly=True,
            secure=request.url.scheme == "https",
            samesite="strict",  # no other site can send it along, so none can post for the user
        )


def owner_of(request: Request) -> str:
    """The name of the session's owner, which says nothing of the session's secret.

    Raises:
        HTTPException: 401, there is no session.
    """
    session = request.cookies.get(COOKIE)
    if not session:
        raise HTTPException(401, "There is no session: load the page first.")
    return hashlib.sha256(session.encode()).hexdigest()[:32]


def same_origin(request: Request) -> None:
    """Refuse what another page sends, also one of the same site, as on another port.

    Raises:
        HTTPException: 403.
    """
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise HTTPException(403, "This is for the chat's own page.")


def is_mine(request: Request, conversation_id: str) -> bool:
    """Whether the conversation is the session's: the router's ``authorize``."""
    return secrets.compare_digest(
        conversation_id.partition("-")[0].encode(), owner_of(request).encode()
    )
