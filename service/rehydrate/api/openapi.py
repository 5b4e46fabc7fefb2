"""What the OpenAPI document says beside the code: problems with examples, bodies, who may call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.api.problems import MEDIA_TYPE
from rehydrate.api.schemas import MAX_MESSAGES, MessagesIn

if TYPE_CHECKING:
    from collections.abc import Sequence

SECURITY_SCHEMES = {
    "reader": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": (
            "The Ably token that the reader already has: a JWT signed with a configured key, or an"
            " opaque token. It has to grant `history` or `subscribe` on the conversation's channel."
        ),
    },
    "service": {"type": "http", "scheme": "bearer", "description": "A service key."},
    "admin": {"type": "http", "scheme": "bearer", "description": "An admin key."},
}

READERS: list[dict[str, list[str]]] = [{"reader": []}, {"service": []}, {"admin": []}]
ADMINS: list[dict[str, list[str]]] = [{"admin": []}]
BACKENDS: list[dict[str, list[str]]] = [{"service": []}, {"admin": []}]

_EXAMPLES: dict[int, tuple[str, str, str]] = {
    401: ("unauthorized", "Unauthorized", "the token has expired"),
    403: (
        "forbidden",
        "Forbidden",
        "the token grants neither history nor subscribe on this conversation's channel",
    ),
    404: ("not_found", "Not found", "there is no message 'resp_1'"),
    408: ("too_slow", "The request took too long", "the body did not arrive within 30 s"),
    409: ("conflict", "Conflict", "message 'resp_1' is stored with other content"),
    413: ("too_large", "Too large", "the body has more than 4194304 bytes"),
    415: ("unsupported_media_type", "The body has to be JSON", "the body has to be JSON"),
    422: (
        "bad_parameter",
        "A parameter is not valid",
        "limit: Input should be less than or equal to 200",
    ),
    429: ("too_many", "Too many requests", "256 hydrates are under way; try again"),
    500: ("internal", "Internal error", "something went wrong here; the log names it"),
    502: ("channel_unavailable", "The channel is unavailable", "Ably refused (40160)"),
    503: ("store_unavailable", "The store is unavailable", "Postgres does not answer"),
}
_HEADERS = {
    401: ("WWW-Authenticate", "string"),
    403: ("WWW-Authenticate", "string"),
    429: ("Retry-After", "integer"),
    502: ("Retry-After", "integer"),
    503: ("Retry-After", "integer"),
}

_PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "Stable; what programs go by."},
        "parameter": {"type": "string", "description": "Which one, where it is a parameter."},
        "request_id": {"type": "string", "description": "As in `X-Request-Id`, and in the log."},
    },
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documented problems of a route.

    Each holds its whole schema, so that it is right in another app's document too.
    """
    return {status: _problem(status) for status in statuses}


def _problem(status: int) -> dict[str, Any]:
    code, title, detail = _EXAMPLES[status]
    example = {
        "type": f"urn:rehydrate:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": "5f0c7a9b2d4e6f81",
    }
    if status == 422:  # noqa: PLR2004 - the one with a parameter
        example["parameter"] = "limit"
    described: dict[str, Any] = {
        "description": f"{title} (`{code}`)",
        "content": {MEDIA_TYPE: {"schema": _PROBLEM_SCHEMA, "example": example}},
    }
    if status in _HEADERS:
        name, kind = _HEADERS[status]
        described["headers"] = {name: {"schema": {"type": kind}}}
    return described


def not_modified() -> dict[int | str, dict[str, Any]]:
    """The answer to an ETag that still holds."""
    etag = {"ETag": {"schema": {"type": "string"}}}
    return {304: {"description": "As it was: `If-None-Match` names it.", "headers": etag}}


def secured(by: Sequence[dict[str, list[str]]]) -> dict[str, Any]:
    """Who may call a route."""
    return {"security": list(by)}


def messages_body() -> dict[str, Any]:
    """The body of POST messages, which the route reads itself, within limits."""
    schema = MessagesIn.model_json_schema()
    example = {
        "messages": [
            {"id": "p-1", "role": "user", "text": "Tell me a story."},
            {"id": "resp_1", "role": "assistant", "prompt_id": "p-1", "text": "Once upon a time…"},
        ]
    }
    return {
        "requestBody": {
            "required": True,
            "description": f"Finished messages, 1 to {MAX_MESSAGES}: all are stored, or none.",
            "content": {"application/json": {"schema": inlined(schema), "example": example}},
        }
    }


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """*schema* without references, which would point into a document that is not ours."""
    definitions = schema.pop("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, list):
            return [resolved(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return resolved(definitions[value["$ref"].rpartition("/")[2]])
        return {key: resolved(each) for key, each in value.items() if key != "discriminator"}

    return dict(resolved(schema))
