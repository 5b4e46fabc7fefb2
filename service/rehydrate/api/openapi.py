"""Parts of the OpenAPI document that FastAPI cannot derive: problems, body schemas, security."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from rehydrate.api.answers import JSON, MEDIA_TYPE
from rehydrate.api.schemas import MAX_MESSAGES, MessagesIn

if TYPE_CHECKING:
    from collections.abc import Sequence

SECURITY_SCHEMES = {
    "reader": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": (
            "The reader's Ably token: a JWT signed with a configured key, or an opaque token. It"
            " must grant `history` or `subscribe` on the conversation's channel."
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
    408: ("too_slow", "Request timeout", "the body did not arrive within 30 s"),
    409: ("conflict", "Conflict", "message 'resp_1' is stored with other content"),
    413: ("too_large", "Too large", "the body has more than 4194304 bytes"),
    415: (
        "unsupported_media_type",
        "Unsupported media type",
        "the body must be JSON, with Content-Type: application/json",
    ),
    422: ("bad_parameter", "Invalid parameter", "limit must be an integer from 1 to 200"),
    429: ("too_many", "Too many requests", "256 hydrates are under way; retry later"),
    500: ("internal", "Internal error", "unexpected error; see the log for request id …"),
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
        "code": {"type": "string", "description": "Stable; for programs to test."},
        "parameter": {"type": "string", "description": "The name of the invalid parameter."},
        "request_id": {"type": "string", "description": "As in `X-Request-Id` and in the log."},
    },
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documented problems of a route, by status.

    Each contains its whole schema: a reference would be wrong in an embedding app's document.
    """
    return {status: _problem(status) for status in statuses}


def answering(
    model: Any,
    *refusals: int,
    by: Sequence[dict[str, list[str]]],
    status: int = 200,
    cached: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Return the arguments of `add_api_route` for a route that answers with *model* as JSON.

    Args:
        model: the body of the answer.
        refusals: the statuses of its problems besides 401, 403 and 500.
        by: who may call it.
        status: the status of the answer.
        cached: clients may cache the answer, and revalidate it.
        more: further members of the operation, such as its body.
    """
    return {
        "status_code": status,
        "response_class": Response,
        "responses": {
            status: {"model": model, "content": {JSON: {}}},
            **(not_modified() if cached else {}),
            **problems(*sorted({401, 403, 500, *refusals})),
        },
        "openapi_extra": {**secured(by), **more},
    }


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
    if status == 422:  # noqa: PLR2004 - the only status that names a parameter
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
    """Return the documented 304 response to a matching `If-None-Match`."""
    etag = {"ETag": {"schema": {"type": "string"}}}
    return {304: {"description": "Unchanged: `If-None-Match` matches.", "headers": etag}}


def secured(by: Sequence[dict[str, list[str]]]) -> dict[str, Any]:
    """Return the security requirement of a route."""
    return {"security": list(by)}


def messages_body() -> dict[str, Any]:
    """Return the documented body of POST messages, which the route reads itself, with limits."""
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
            "description": f"1 to {MAX_MESSAGES} finished messages; all are stored, or none.",
            "content": {"application/json": {"schema": inlined(schema), "example": example}},
        }
    }


def drop_annotations(document: dict[str, Any]) -> None:
    """Remove the titles and descriptions that FastAPI adds to the schemas of parameters, in place.

    The title is the parameter's name again, and the description is that of the parameter.
    """
    for methods in document["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                for word in ("title", "description"):
                    parameter["schema"].pop(word, None)


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return *schema* with references resolved: they would be wrong in an embedding app's document."""
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
