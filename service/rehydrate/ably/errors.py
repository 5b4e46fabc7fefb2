"""What Ably's errors mean to us."""

from __future__ import annotations

from typing import Any

from ably.util.exceptions import AblyException

from rehydrate.errors import ChannelRefused, ChannelUnavailable

CAPABILITY = 40160
POSITION_REFUSED = frozenset({90002, 90008, 40024})
"""History up to an attach point is not to be had: Ably's advice is plain history instead."""

_UNAUTHORIZED = range(40100, 40200)
_NO_SUCH_KEY = frozenset({40003, 40005, 40400})
_TOKENS = range(40140, 40150)
_SERVER_ERRORS = range(500, 600)
_TOO_MANY = 429
_TIMED_OUT = 408


def is_token_refusal(code: int) -> bool:
    """Whether a new token may help (RSA4b)."""
    return code in _TOKENS


def means_unauthorized(code: int) -> bool:
    """Whether the token or key itself was refused, and not only this use of it."""
    return (code in _UNAUTHORIZED and code != CAPABILITY) or code in _NO_SUCH_KEY


def may_pass(status: int) -> bool:
    """Whether the same request may be granted later."""
    return status in _SERVER_ERRORS or status in (_TOO_MANY, _TIMED_OUT)


def as_ours(error: BaseException | None, doing: str) -> ChannelUnavailable:
    """What an error of the SDK means: *doing* says what was tried.

    Ably said no: `ChannelRefused`. It could not say: `ChannelUnavailable`.
    """
    detail = f"{doing}: {described(error)}"
    if not isinstance(error, AblyException) or may_pass(error.status_code or 0):
        return ChannelUnavailable(detail)
    return ChannelRefused(int(error.code or 0), detail)


def described(error: BaseException | None) -> str:
    """What may be told of *error*: an address that the SDK quotes has a token in it."""
    if not isinstance(error, AblyException):
        return type(error).__name__ if error else "no reason given"
    quotes_address = "accessToken" in str(error.message)
    return f"{'' if quotes_address else error.message} ({error.code})".strip()


def error_of(items: list[Any], header_code: str | None) -> tuple[int, str]:
    """Code and message of an answer that is an error, from its body or else its header."""
    body = items[0] if items else None
    info = body.get("error") if isinstance(body, dict) else None
    info = info if isinstance(info, dict) else {}
    code, message = info.get("code"), info.get("message")
    if not isinstance(code, int):
        code = int(header_code) if header_code and header_code.isdigit() else 0
    return code, message if isinstance(message, str) else "no reason given"
