from __future__ import annotations

import json
import logging

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from rehydrate import errors
from rehydrate.api.problems import MissingCredentials, TooMany, problem_of


def problem_for(error):
    response = problem_of(error, "r-1").response("r-1")
    assert response.media_type == "application/problem+json"
    body = json.loads(response.body)
    assert body["status"] == response.status_code
    assert body["request_id"] == response.headers["x-request-id"] == "r-1"
    return response, body


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.BadParameter("limit", "no"), 422, "bad_parameter"),
        (errors.NotFound("no"), 404, "not_found"),
        (errors.Conflict("no"), 409, "conflict"),
        (errors.TooLarge("no"), 413, "too_large"),
        (errors.Unauthorized("no"), 401, "unauthorized"),
        (errors.Forbidden("no"), 403, "forbidden"),
        (errors.StoreUnavailable("no"), 503, "store_unavailable"),
        (errors.ChannelUnavailable("no"), 503, "channel_unavailable"),
        (errors.ChannelRefused(40160, "no"), 502, "channel_unavailable"),
        (errors.Fenced("no"), 409, "conflict"),
        (TooMany("no"), 429, "too_many"),
    ],
)
def test_each_error_class_becomes_its_problem(error, status, code):
    response, body = problem_for(error)
    assert (response.status_code, body["code"]) == (status, code)
    assert body["type"] == f"urn:rehydrate:problem:{code}"
    assert (body["detail"], body["title"]) == ("no", type(error).title)
    assert body.get("parameter") == getattr(error, "parameter", None)
    assert ("retry-after" in response.headers) == isinstance(error, errors.Unavailable)
    assert ("www-authenticate" in response.headers) == isinstance(error, errors.Refused)


def test_the_challenge_follows_rfc_6750():
    missing, _ = problem_for(MissingCredentials("missing credentials"))
    assert missing.headers["www-authenticate"] == 'Bearer realm="rehydrate"'
    expired, _ = problem_for(errors.Unauthorized("the token has expired"))
    assert expired.headers["www-authenticate"].endswith('error="invalid_token"')
    narrow, _ = problem_for(errors.Forbidden("no"))
    assert narrow.headers["www-authenticate"].endswith('error="insufficient_scope"')


@pytest.mark.parametrize("error", [ValueError("a secret"), errors.RehydrateError("a secret")])
def test_an_unexpected_error_is_logged_and_not_disclosed(error, caplog):
    with caplog.at_level(logging.ERROR):
        response, body = problem_for(error)
    assert (response.status_code, body["code"]) == (500, "internal")
    assert "secret" not in body["detail"]
    assert "r-1" in body["detail"]
    assert "r-1" in caplog.text


def test_a_missing_setting_is_not_disclosed_to_callers(caplog):
    _, body = problem_for(errors.NotConfigured("ABLY_API_KEY is not set"))
    assert body["code"] == "internal"
    assert "ABLY" not in body["detail"]
    assert caplog.records


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "unauthorized"), (403, "forbidden"), (404, "not_found"), (405, "method_not_allowed"),
     (410, "gone"), (413, "too_large"), (418, "refused"), (429, "too_many"), (503, "internal"),
     (799, "internal")],
)  # fmt: skip
def test_http_exceptions_keep_their_status(status, code):
    response, body = problem_for(HTTPException(status, "because", {"X-Why": "it is so"}))
    assert (response.status_code, body["code"], body["detail"]) == (status, code, "because")
    assert response.headers["x-why"] == "it is so"


def test_a_hosts_401_gets_a_bearer_challenge_unless_it_has_one():
    asked, _ = problem_for(HTTPException(401))
    assert asked.headers["www-authenticate"].startswith("Bearer")
    cookie, body = problem_for(HTTPException(401, {"not": "text"}, {"WWW-Authenticate": "Cookie"}))
    assert cookie.headers["www-authenticate"] == "Cookie"
    assert body["detail"] == "Unauthorized"


def test_the_frameworks_own_validation_names_the_parameter():
    fault = {"loc": ("query", "speed"), "msg": "Input should be a number", "type": "x"}
    _, body = problem_for(RequestValidationError([fault]))
    assert (body["code"], body["parameter"]) == ("bad_parameter", "speed")
    assert body["detail"] == "speed: Input should be a number"


def test_a_client_that_disconnects_is_not_a_server_error(caplog):
    problem_for(ClientDisconnect())
    assert not caplog.records
