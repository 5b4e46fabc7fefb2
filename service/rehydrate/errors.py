"""The error tree. Every error that rehydrate raises deliberately derives from `RehydrateError`.

    RehydrateError
    ├── BadRequest              the call cannot be executed as given
    │   ├── BadParameter        422 bad_parameter (names the parameter)
    │   ├── NotFound            404 not_found
    │   ├── Conflict            409 conflict
    │   └── TooLarge            413 too_large
    ├── Refused                 the credentials do not permit the call
    │   ├── Unauthorized        401 unauthorized
    │   └── Forbidden           403 forbidden
    ├── Unavailable             a failure in rehydrate or a dependency; retry
    │   ├── StoreUnavailable    503 store_unavailable (Postgres)
    │   │   └── OutcomeUnknown  503 store_unavailable (the answer to a commit was lost)
    │   ├── Busy                429 too_many (a concurrency or queue limit was reached)
    │   └── ChannelUnavailable  503 channel_unavailable (Ably)
    │       └── ChannelRefused  502 channel_unavailable (Ably returned an error code)
    ├── Fenced                  409 conflict (the publisher lost the response)
    └── NotConfigured           exit code 2 (a setting is missing or invalid)

Each class carries the HTTP status and the stable ``code`` of its problem document, so the HTTP API
needs no mapping of its own.
"""

from __future__ import annotations


class RehydrateError(Exception):
    """Base class of all errors that rehydrate raises deliberately."""

    status = 500
    code = "internal"
    title = "Internal error"


class BadRequest(RehydrateError):
    """The call cannot be executed as given."""

    status = 400
    code = "bad_parameter"
    title = "Bad request"


class BadParameter(BadRequest):
    """A parameter has invalid syntax or is out of range.

    Attributes:
        parameter: the parameter's name, as the caller wrote it.
    """

    status = 422
    title = "Invalid parameter"

    def __init__(self, parameter: str, detail: str) -> None:
        super().__init__(detail)
        self.parameter = parameter


class NotFound(BadRequest):
    """The requested object does not exist, or the caller may not know of it."""

    status = 404
    code = "not_found"
    title = "Not found"


class Conflict(BadRequest):
    """The object already exists with different content."""

    status = 409
    code = "conflict"
    title = "Conflict"


class TooLarge(BadRequest):
    """The input exceeds a size limit of the service."""

    status = 413
    code = "too_large"
    title = "Too large"


class Refused(RehydrateError):
    """The caller's credentials do not permit the call."""

    status = 403
    code = "forbidden"
    title = "Forbidden"


class Unauthorized(Refused):
    """Credentials are missing or invalid: expired, malformed, or signed with an unknown key."""

    status = 401
    code = "unauthorized"
    title = "Unauthorized"


class Forbidden(Refused):
    """The credentials are valid but do not cover this operation."""


class Unavailable(RehydrateError):
    """A dependency does not answer, or a limit is reached; a retry may succeed.

    Attributes:
        retry_after_s: seconds to wait before retrying.
    """

    status = 503
    title = "Temporarily unavailable"
    retry_after_s = 2


class StoreUnavailable(Unavailable):
    """Postgres does not answer."""

    code = "store_unavailable"
    title = "The store is unavailable"


class OutcomeUnknown(StoreUnavailable):
    """Postgres did not answer a commit: the write may have happened, or not."""


class ChannelUnavailable(Unavailable):
    """Ably does not answer."""

    code = "channel_unavailable"
    title = "The channel is unavailable"


class ChannelRefused(ChannelUnavailable):
    """Ably answered with an error code.

    Attributes:
        ably_code: Ably's error code, for example 40160 (capability) or 42911 (rate).
    """

    status = 502

    def __init__(self, ably_code: int, detail: str) -> None:
        super().__init__(detail)
        self.ably_code = ably_code


class Busy(Unavailable):
    """A concurrency or queue limit was reached; the operation was not started."""

    status = 429
    code = "too_many"
    title = "Too many requests"
    retry_after_s = 5


class Fenced(RehydrateError):
    """The publisher may no longer write the response: it was taken over, ended or erased."""

    status = 409
    code = "conflict"
    title = "Fenced"


class NotConfigured(RehydrateError):
    """A setting is missing or invalid; the message names the variable."""

    status = 500
    title = "Not configured"
