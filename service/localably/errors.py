"""What localably refuses, in Ably's own words.

The tree::

    RefusedError          a code, a status and a message, as an ErrorInfo on the wire (TI1)
    └── FrameError        what arrived is no ProtocolMessage, or no message
"""

from __future__ import annotations

from typing import Any

_FIRST_STATUS_CODE = 40000
_END_OF_STATUS_CODES = 51000


class RefusedError(Exception):
    """A request that is not granted.

    Attributes:
        code: Ably's error code, for instance 40160.
        status_code: the HTTP status that belongs to it.
        message: what a developer reads; never holds a secret or the text of a message.
    """

    def __init__(self, code: int, message: str, status_code: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status_code = status_code if status_code is not None else _status_of(code)

    def as_wire(self) -> dict[str, Any]:
        """Return the ErrorInfo that clients read."""
        return {
            "code": self.code,
            "statusCode": self.status_code,
            "message": self.message,
            "href": f"https://help.ably.io/error/{self.code}",
        }


class FrameError(RefusedError):
    """Bytes or fields that the protocol does not know; always code 40000 and status 400."""

    def __init__(self, message: str) -> None:
        super().__init__(40000, message, 400)


def _status_of(code: int) -> int:
    """Return the status inside codes such as 40160; 400 for the families without one."""
    if _FIRST_STATUS_CODE <= code < _END_OF_STATUS_CODES:
        return code // 100
    return 400
