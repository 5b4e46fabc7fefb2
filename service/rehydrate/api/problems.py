"""Convert every error to problem+json (RFC 9457), with a stable ``code``."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from rehydrate.core.json import dump
from rehydrate.errors import (
    BadParameter,
    BadRequest,
    Refused,
    RehydrateError,
    Unauthorized,
    Unavailable,
)

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
REALM = 'Bearer realm="rehydrate"'
_TYPE = "urn:rehydrate:problem:"

_CODES = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    409: "conflict",
    410: "gone",
    413: "too_large",
    415: "unsupported_media_type",
    422: "bad_parameter",
    429: "too_many",
}
"""Codes for statuses raised as HTTPException, by the framework or by an embedding application."""


class TooMany(Unavailable):
    """A concurrency limit of the API was reached."""

    status = 429
    code = "too_many"
    title = "Too many requests"
    retry_after_s = 1


class TooSlow(BadRequest):
    """The request did not arrive in time."""

    status = 408
    code = "too_slow"
    title = "Request timeout"


class UnsupportedMediaType(BadRequest):
    """The body is not declared as JSON by its Content-Type."""

    status = 415
    code = "unsupported_media_type"
    title = "Unsupported media type"


class MissingCredentials(Unauthorized):
    """The request carries neither a token nor a key."""


class Problem(NamedTuple):
    """A problem document. ``headers``: additional response headers."""

    status: int
    code: str
    title: str
    detail: str
    parameter: str | None = None
    headers: dict[str, str] | None = None

    def response(self, request_id: str) -> Response:
        """Return the response to the request with *request_id*."""
        body: dict[str, Any] = {
            "type": _TYPE + self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
        }
        if self.parameter is not None:
            body["parameter"] = self.parameter
        headers = {"Cache-Control": "no-store", "X-Request-Id": request_id, **(self.headers or {})}
        return Response(dump(body), self.status, headers, MEDIA_TYPE)


def problem_of(error: Exception, request_id: str) -> Problem:
    """Return the problem of *error*.

    An unexpected error is logged with its traceback and discloses nothing but the request id.
    """
    if isinstance(error, RehydrateError) and error.code != RehydrateError.code:
        return _of_ours(error)
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        return _of_framework(error)
    if isinstance(error, ClientDisconnect):
        return Problem(400, "bad_parameter", "Bad request", "the client disconnected")
    _log.error("request %s failed", request_id, exc_info=error)
    return Problem(
        500,
        RehydrateError.code,
        RehydrateError.title,
        f"unexpected error; see the log for request id {request_id}",
    )


def _of_ours(error: RehydrateError) -> Problem:
    headers: dict[str, str] = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Refused):
        headers["WWW-Authenticate"] = _challenge(error)
    parameter = error.parameter if isinstance(error, BadParameter) else None
    return Problem(error.status, error.code, error.title, str(error), parameter, headers)


def _challenge(error: Refused) -> str:
    """Return the WWW-Authenticate header (RFC 6750, 3.1): no error code if credentials are missing."""
    if error.status == HTTPStatus.FORBIDDEN:
        return f'{REALM}, error="insufficient_scope"'
    if isinstance(error, MissingCredentials):
        return REALM
    return f'{REALM}, error="invalid_token"'


def _of_validation(error: RequestValidationError) -> Problem:
    """Return the problem of a parameter that FastAPI rejected; ``loc`` ends with its name."""
    first = error.errors()[0]
    parameter = str(first["loc"][-1])
    return Problem(
        BadParameter.status,
        BadParameter.code,
        BadParameter.title,
        f"{parameter}: {first['msg']}",
        parameter,
    )


def _of_framework(error: HTTPException) -> Problem:
    try:
        title = HTTPStatus(error.status_code).phrase
    except ValueError:
        title = "Refused"
    code = _CODES.get(error.status_code, "internal" if error.status_code >= 500 else "refused")  # noqa: PLR2004 - as HTTP groups them
    detail = error.detail if isinstance(error.detail, str) and error.detail else title
    if code == "not_found" and detail == title:
        detail = "no route matches this path"
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.UNAUTHORIZED:
        headers.setdefault("WWW-Authenticate", REALM)
    return Problem(error.status_code, code, title, detail, headers=headers)
