"""How a vendor's stream can end badly, and what becomes of the exceptions of its package.

    ProviderError          the answer did not end as `completed`
    ├── StreamBroken       it broke off: no end came (incomplete; a background response can resume)
    ├── StreamUnreadable   something in it makes no sense (failed)
    ├── VendorIncomplete   the vendor stopped early and says why (incomplete)
    ├── VendorFailed       the vendor says that it failed (failed)
    ├── VendorCancelled    it was cancelled at the vendor's (cancelled)
    └── ToolFailed         a tool does not exist, or hangs, or cannot take its arguments (failed)

The vendor's package is recognised by the names of its exceptions, so that nothing here imports it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rehydrate.errors import RehydrateError

if TYPE_CHECKING:
    from rehydrate.core.event import Status

TOLD_CHARACTERS = 300
"""How much of an error is told to the readers of a conversation."""


class ProviderError(RehydrateError):
    """The model's answer did not end as `completed`.

    Attributes:
        code: which of the things that can happen, for instance ``malformed_event``.
        ending: the status with which the response ends.
    """

    status = 502
    code = "provider"
    title = "The model's answer did not end well"
    ending: Status = "failed"

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code

    @property
    def told(self) -> str:
        """What the readers of the conversation are told of it."""
        return str(self)[:TOLD_CHARACTERS]


class StreamBroken(ProviderError):
    """The stream broke off: no end came."""

    ending = "incomplete"


class StreamUnreadable(ProviderError):
    """Something in the stream makes no sense."""


class VendorIncomplete(ProviderError):
    """The vendor stopped early, and says why."""

    ending = "incomplete"


class VendorFailed(ProviderError):
    """The vendor says that the answer failed, or refused the request."""


class VendorCancelled(ProviderError):
    """The answer was cancelled at the vendor's."""

    ending = "cancelled"


class ToolFailed(ProviderError):
    """A tool does not exist, hangs, or cannot take its arguments."""


def failure_of(error: Exception) -> ProviderError:
    """What *error*, raised while a stream was asked for or read, means for the response."""
    if isinstance(error, ProviderError):
        return error
    failure = _failure_of(error, {kind.__name__ for kind in type(error).__mro__})
    failure.__cause__ = error
    return failure


def _failure_of(error: Exception, kinds: set[str]) -> ProviderError:
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return StreamUnreadable("malformed_event", str(error)[:TOLD_CHARACTERS])
    if isinstance(error, TimeoutError) or kinds & {"APITimeoutError", "TimeoutException"}:
        return StreamBroken("stalled", "nothing came for too long")
    if isinstance(error, OSError) or kinds & {"APIConnectionError", "TransportError"}:
        return StreamBroken("connection_lost", type(error).__name__)
    if "APIError" in kinds:
        body = getattr(error, "body", None)
        return vendor_failure(body if isinstance(body, dict) else {}, type(error).__name__)
    return ProviderError("source_failed", type(error).__name__)


def vendor_failure(error: Any, otherwise: str = "vendor_failed") -> VendorFailed:
    """The failure that an error object of the vendor describes."""
    fields = error if isinstance(error, dict) else {}
    code = fields.get("code") or fields.get("type")
    message = fields.get("message")
    return VendorFailed(
        code if isinstance(code, str) else otherwise, message if isinstance(message, str) else ""
    )
