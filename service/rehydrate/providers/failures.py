"""The failures of a vendor's stream, and the mapping from exceptions of the vendor's package.

    ProviderError          the answer did not end as `completed`
    ├── StreamBroken       the stream broke off (incomplete; a background response can resume)
    ├── StreamUnreadable   the stream is malformed or inconsistent (failed)
    ├── VendorIncomplete   the vendor stopped early, with a reason (incomplete)
    ├── VendorFailed       the vendor reported a failure (failed)
    ├── VendorCancelled    the vendor reported a cancellation (cancelled)
    └── ToolFailed         a tool does not exist, hangs, or cannot parse its arguments (failed)

Exceptions of the vendor's package are recognised by the names of their classes, so the package
does not have to be installed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rehydrate.errors import RehydrateError

if TYPE_CHECKING:
    from rehydrate.core.event import Status

_PASSING = (408, 409, 429)
_SERVER_ERROR = 500

ERROR_CHARACTERS_MAX = 300
"""Length of an error that is published to the readers of a conversation."""


class ProviderError(RehydrateError):
    """The model's answer did not end as `completed`.

    Attributes:
        code: the kind of failure, for instance ``malformed_event``.
        ending: the status with which the response ends.
        passing: the same request may succeed later.
    """

    status = 502
    code = "provider"
    title = "The model's answer did not end well"
    ending: Status = "failed"

    def __init__(self, code: str, detail: str = "", *, passing: bool = False) -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.passing = passing

    @property
    def public_detail(self) -> str:
        """The text that is published to the readers of the conversation."""
        return str(self)[:ERROR_CHARACTERS_MAX]


class StreamBroken(ProviderError):
    """The stream broke off before its last event."""

    ending = "incomplete"


class StreamUnreadable(ProviderError):
    """The stream is malformed or inconsistent."""


class VendorIncomplete(ProviderError):
    """The vendor stopped early, with a reason."""

    ending = "incomplete"


class VendorFailed(ProviderError):
    """The vendor reported that the answer failed, or rejected the request."""


class VendorCancelled(ProviderError):
    """The vendor reported that the answer was cancelled."""

    ending = "cancelled"


class ToolFailed(ProviderError):
    """A tool does not exist, hangs, or cannot parse its arguments."""


def failure_of(error: BaseException) -> ProviderError:
    """Return the failure for *error*, which was raised while requesting or reading a stream."""
    if isinstance(error, ProviderError):
        return error
    failure = _failure_of(error, {kind.__name__ for kind in type(error).__mro__})
    failure.__cause__ = error
    return failure


def _failure_of(error: BaseException, kinds: set[str]) -> ProviderError:
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return StreamUnreadable("malformed_event", str(error)[:ERROR_CHARACTERS_MAX])
    if isinstance(error, TimeoutError) or kinds & {"APITimeoutError", "TimeoutException"}:
        return StreamBroken("stalled", "no event before the idle timeout", passing=True)
    if isinstance(error, OSError) or kinds & {"APIConnectionError", "RequestError"}:
        return StreamBroken("connection_lost", type(error).__name__, passing=True)
    if "APIError" in kinds:
        body = getattr(error, "body", None)
        failure = vendor_failure(body if isinstance(body, dict) else {}, type(error).__name__)
        status = getattr(error, "status_code", None)
        failure.passing = status in _PASSING or (
            isinstance(status, int) and status >= _SERVER_ERROR
        )
        return failure
    return ProviderError("source_failed", type(error).__name__)


def vendor_failure(error: Any, otherwise: str = "vendor_failed") -> VendorFailed:
    """Return the failure that an error object of the vendor describes."""
    fields = error if isinstance(error, dict) else {}
    named = [fields.get("code"), fields.get("type")]  # the code of some gateways is a number
    code = next((each for each in named if isinstance(each, str) and each), otherwise)
    message = fields.get("message")
    return VendorFailed(code, message if isinstance(message, str) else "")
