"""What can go wrong, by whose fault.

    RehydrateError
    ├── BadRequest            yours: the call cannot be carried out as it stands
    │   ├── BadParameter      422 bad_parameter (names the parameter)
    │   ├── NotFound          404 not_found
    │   ├── Conflict          409 conflict
    │   └── TooLarge          413 too_large
    ├── Refused               yours: the proof that was shown is not enough
    │   ├── Unauthorized      401 unauthorized
    │   └── Forbidden         403 forbidden
    ├── Unavailable           ours or a neighbour's: try again
    │   ├── StoreUnavailable  503 store_unavailable (Postgres)
    │   ├── Busy              429 too_many (more is under way than is taken on)
    │   └── ChannelUnavailable 503 channel_unavailable (Ably)
    │       └── ChannelRefused 502 channel_unavailable (Ably said no, with a code)
    ├── Fenced                409 conflict (another publisher took the response over, or it ended)
    └── NotConfigured         exit code 2 (a setting is missing or wrong)

Each carries the HTTP status and the stable ``code`` that it becomes, so that the HTTP room needs
no table of its own.
"""

from __future__ import annotations


class RehydrateError(Exception):
    """Everything that rehydrate raises on purpose."""

    status = 500
    code = "internal"
    title = "Internal error"


class BadRequest(RehydrateError):
    """The call cannot be carried out as it stands."""

    status = 400
    code = "bad_parameter"
    title = "Bad request"


class BadParameter(BadRequest):
    """A parameter is outside its syntax or range.

    Attributes:
        parameter: the name of it, as the caller wrote it.
    """

    status = 422
    title = "A parameter is not valid"

    def __init__(self, parameter: str, detail: str) -> None:
        super().__init__(detail)
        self.parameter = parameter


class NotFound(BadRequest):
    """There is no such thing, or not for you."""

    status = 404
    code = "not_found"
    title = "Not found"


class Conflict(BadRequest):
    """It exists already, and says something else."""

    status = 409
    code = "conflict"
    title = "Conflict"


class TooLarge(BadRequest):
    """More than this service takes in one piece."""

    status = 413
    code = "too_large"
    title = "Too large"


class Refused(RehydrateError):
    """The proof that was shown is not enough."""

    status = 403
    code = "forbidden"
    title = "Forbidden"


class Unauthorized(Refused):
    """No proof, or one that does not hold (expired, of another key)."""

    status = 401
    code = "unauthorized"
    title = "Unauthorized"


class Forbidden(Refused):
    """A good proof, but not for this."""


class Unavailable(RehydrateError):
    """Something that we stand on does not answer; trying again can help.

    Attributes:
        retry_after_s: when to try again, in seconds.
    """

    status = 503
    title = "Temporarily unavailable"
    retry_after_s = 2


class StoreUnavailable(Unavailable):
    """Postgres does not answer."""

    code = "store_unavailable"
    title = "The store is unavailable"


class ChannelUnavailable(Unavailable):
    """Ably does not answer."""

    code = "channel_unavailable"
    title = "The channel is unavailable"


class ChannelRefused(ChannelUnavailable):
    """Ably answered, and said no.

    Attributes:
        ably_code: Ably's error code, for instance 40160 (capability) or 42911 (rate).
    """

    status = 502

    def __init__(self, ably_code: int, detail: str) -> None:
        super().__init__(detail)
        self.ably_code = ably_code


class Busy(Unavailable):
    """More is under way than is taken on at once; it was not begun."""

    status = 429
    code = "too_many"
    title = "Too many requests"
    retry_after_s = 5


class Fenced(RehydrateError):
    """This publisher may not write the response any more: it was taken over, ended or erased."""

    status = 409
    code = "conflict"
    title = "Fenced"


class NotConfigured(RehydrateError):
    """A setting is missing or wrong; the text names the variable."""

    status = 500
    title = "Not configured"
