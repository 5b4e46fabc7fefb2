"""Translation of Ably's errors into the errors of this package."""

from __future__ import annotations

from typing import Any

from ably.util.exceptions import AblyException

from rehydrate.errors import ChannelRefused, ChannelUnavailable

CAPABILITY = 40160
POSITION_REFUSED = frozenset({90002, 90008, 40024})
"""Codes for a refused attach point; Ably's documentation advises to read plain history then."""

_UNAUTHORIZED = range(40100, 40200)
_NO_SUCH_KEY = frozenset({40003, 40005, 40400})
_TOKENS = range(40140, 40150)
_SERVER_ERRORS = range(500, 600)
_TOO_MANY = 429
_TIMED_OUT = 408


def is_token_refusal(code: int) -> bool:
    """Return whether a new token may help (RSA4b)."""
    return code in _TOKENS


def is_unauthorized(code: int) -> bool:
    """Return whether the token or key itself was refused, and not only this use of it."""
    return (code in _UNAUTHORIZED and code != CAPABILITY) or code in _NO_SUCH_KEY


def is_transient(status: int) -> bool:
    """Return whether the same request may succeed later."""
    return status in _SERVER_ERRORS or status in (_TOO_MANY, _TIMED_OUT)


def channel_error(error: BaseException | None, doing: str) -> ChannelUnavailable:
    """Translate an error of the SDK; *doing* names the attempted action.

    Returns:
        `ChannelRefused` if Ably refused, `ChannelUnavailable` if it failed or did not answer.
    """
    detail = f"{doing}: {describe(error)}"
    if not isinstance(error, AblyException) or is_transient(error.status_code or 0):
        return ChannelUnavailable(detail)
    return ChannelRefused(int(error.code or 0), detail)


def describe(error: BaseException | None) -> str:
    """Return a loggable description of *error*: addresses quoted by the SDK contain a token."""
    if not isinstance(error, AblyException):
        return type(error).__name__ if error else "no reason given"
    quotes_address = "accessToken" in str(error.message)
    return f"{'' if quotes_address else error.message} ({error.code})".strip()


def error_of(items: list[Any], header_code: str | None) -> tuple[int, str]:
    """Return code and message of an error response, from its body or else its header."""
    body = items[0] if items else None
    info = body.get("error") if isinstance(body, dict) else None
    info = info if isinstance(info, dict) else {}
    code, message = info.get("code"), info.get("message")
    if not isinstance(code, int):
        code = int(header_code) if header_code and header_code.isdigit() else 0
    return code, message if isinstance(message, str) else "no reason given"
