"""Answers: cache headers, problems, routes with ids of any text, limits, and sends stepped by hand."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import secrets
import urllib.request
from urllib.parse import quote, urlsplit

import httpx
import pytest
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request

from api.conftest import problem
from api.minting import SERVICE_KEY, bearer
from api.serving import served_beside
from api.sse import streamed
from localably import LocalAbly
from participants import publisher_to, settings_for
from rehydrate import errors
from rehydrate.api import answers
from rehydrate.api.answers import (
    MissingCredentials,
    Route,
    direct,
    offer_direct,
    problem_of,
    request_id,
    step,
)
from rehydrate.history import History
from rehydrate.limits import TooMany
from waiting import PATIENCE_S


def asking(if_none_match=None):
    headers = [] if if_none_match is None else [(b"if-none-match", if_none_match.encode())]
    return Request({"type": "http", "headers": headers})


def test_a_live_answer_must_not_be_cached():
    answer = answers.live(b"{}", 201)
    assert (answer.status_code, answer.body, answer.media_type) == (201, b"{}", "application/json")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["vary"] == "Authorization"
    assert "etag" not in answer.headers


def test_a_settled_answer_is_revalidated_by_its_etag():
    first = answers.settled(asking(), b"{}")
    etag = first.headers["etag"]
    assert first.status_code == 200
    assert first.headers["cache-control"] == "private, no-cache"
    again = answers.settled(asking(etag), b"{}")
    assert (again.status_code, again.body, again.headers["etag"]) == (304, b"", etag)
    assert again.headers["vary"] == "Authorization"
    assert again.headers["cache-control"] == "private, no-cache"


def test_different_bytes_have_different_etags():
    etag = answers.settled(asking(), b'{"text":"a"}').headers["etag"]
    changed = answers.settled(asking(etag), b'{"text":"b"}')
    assert changed.status_code == 200
    assert changed.body == b'{"text":"b"}'
    assert changed.headers["etag"] != etag


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("*", 304),
        ("W/{}", 304),
        ('"x", {}', 304),
        ('"x",W/{} , "y"', 304),
        ('"x"', 200),
        ("", 200),
    ],
)
def test_an_etag_is_found_in_a_list(header, status):
    etag = answers.settled(asking(), b"{}").headers["etag"]
    assert answers.settled(asking(header.format(etag)), b"{}").status_code == status


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


ODD = [
    "conv-42", "a/b", "/", "//", "a//b/", "a b", " ", "100%", "100%25", "%2F", "%252F", "%2525",
    "a+b", "a?b", "a#b", "a&b=c;d", "日本語", "🙂é́", "messages", "a/messages/b", "~._-!$'(),@",
    '"\\<>^`{|}', "x]", "a:b", "ä%2fö", "x" * 128, "日" * 128,
]  # fmt: skip


@pytest.mark.parametrize("conversation", ODD)
async def test_any_id_arrives_as_it_was_encoded(real, conversation):
    client, behind = real
    answer = await client.get(f"/v1/conversations/{quote(conversation, safe='')}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["conversation_id"] == conversation
    assert behind.asked[-1][0] == conversation


@pytest.mark.parametrize("message", [*ODD, "a*", "[x", ":x", "日" * 256])
async def test_any_message_id_arrives_too(real, message):
    client, behind = real
    path = f"/v1/conversations/{quote('a/b%', safe='')}/messages/{quote(message, safe='')}"
    problem(await client.get(path), 404, "not_found")
    assert behind.asked[-1] == ("a/b%", message)
    behind.add("a/b%", message, "there")
    assert (await client.get(path)).json()["id"] == message


@pytest.mark.parametrize("conversation", [*ODD, "..."])
def test_ids_encoded_by_other_clients_arrive(over_the_network, conversation):
    url, _ = over_the_network
    host = urlsplit(url).netloc
    for path in (
        f"/v1/conversations/{quote(conversation, safe='')}",
        "/v1/conversations/" + "".join(f"%{byte:02x}" for byte in conversation.encode()),
    ):
        connection = http.client.HTTPConnection(host, timeout=20)
        connection.request("GET", path, headers=bearer(SERVICE_KEY))
        assert json.load(connection.getresponse())["conversation_id"] == conversation
        connection.close()


@pytest.mark.parametrize("conversation", [".", ".."])
def test_ids_that_clients_take_for_a_step_in_the_path_are_refused(over_the_network, conversation):
    url, _ = over_the_network
    path = "/v1/conversations/" + "".join(f"%{byte:02x}" for byte in conversation.encode())
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
    connection.request("GET", path, headers=bearer(SERVICE_KEY))
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["code"]) == (422, "bad_parameter")
    connection.close()


def test_ids_encoded_by_the_standard_library_arrive(over_the_network):
    url, _ = over_the_network
    asked = urllib.request.Request(f"{url}/v1/conversations/a%2Fb%25", headers=bearer(SERVICE_KEY))
    with urllib.request.urlopen(asked, timeout=20) as answer:
        assert json.load(answer)["conversation_id"] == "a/b%"


@pytest.mark.parametrize(
    "path", ["a*", "a%2A", "%5Bx", ":x", "%3Ax", "a%00b", "%0A", "%7F", "%C2%85", "%FF", "%ED%A0%80",
             "x" * 129, "%E6%97"],
)  # fmt: skip
async def test_an_id_that_is_not_valid_for_a_channel_is_a_bad_parameter(real, path):
    client, behind = real
    before = len(behind.asked)
    for call in (
        client.get(f"/v1/conversations/{path}"),
        client.get(f"/v1/conversations/{path}/messages/m"),
        client.post(f"/v1/conversations/{path}/messages", json={"messages": []}),
    ):
        problem(await call, 422, "bad_parameter", "conversation_id")
    assert len(behind.asked) == before


@pytest.mark.parametrize("path", ["%00", "a%0Ab", "%FF", "x" * 257])
async def test_an_id_that_is_not_valid_for_a_message_is_a_bad_parameter(real, path):
    client, _ = real
    answer = await client.get(f"/v1/conversations/c/messages/{path}")
    problem(answer, 422, "bad_parameter", "message_id")


@pytest.mark.parametrize(
    "path", ["", "/", "c/", "c/messages", "c/messages/", "c/x", "c/messages/m/x"]
)
async def test_a_path_of_another_form_is_not_a_route(real, path):
    client, _ = real
    answer = await client.get(f"/v1/conversations/{path}")
    assert answer.status_code in (404, 405)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_an_escape_is_decoded_once_below_a_prefix_and_a_mount():
    inner = FastAPI(redirect_slashes=False)
    inner.router.route_class = Route

    @inner.get("/in/{first}/{second}")
    async def show(first: str, second: str) -> list[str]:
        return [first, second]

    outer = FastAPI()
    outer.mount("/m/{tenant}", inner)
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http", "method": "GET", "headers": [], "query_string": b"", "root_path": "",
        "path": "/m/t/in/a/b%25/100%", "raw_path": b"/m/t/in/a%2Fb%2525/100%25",
    }  # fmt: skip
    await outer(scope, receive, send)
    assert json.loads(sent[1]["body"]) == ["a/b%25", "100%"]


@pytest.mark.parametrize("raw", [None, b"", b"/rewritten/by%20somebody"])
async def test_a_path_rewritten_by_a_middleware_applies(raw):
    async def show(request: Request) -> None: ...

    scope = {"type": "http", "method": "GET", "path": "/x/a b", "root_path": ""}
    if raw is not None:
        scope["raw_path"] = raw
    _, child = Route("/x/{id}", show).matches(scope)
    assert child["path_params"] == {"id": "a b"}


@pytest.mark.parametrize(
    ("sent", "taken"),
    [("abc-1.2_3:4/5=", True), ("x" * 128, True), ("x" * 129, False), ("", False), ("a b", False),
     ("a\r", False), ("é", False)],
)  # fmt: skip
def test_a_well_formed_request_id_is_kept_and_another_replaced(sent, taken):
    scope = {"type": "http", "headers": [(b"x-request-id", sent.encode("latin-1"))]}
    found = request_id(scope)
    assert (found == sent) == taken
    assert found
    assert request_id(scope) == found


def test_generated_request_ids_differ():
    assert len({request_id({"type": "http", "headers": []}) for _ in range(100)}) == 100


class Slow:
    """Wait for *gate* twice, and record what happens."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.seen = []

    async def __call__(self):
        try:
            for name in ("first", "second"):
                self.seen.append(name)
                await self.gate.wait()
                self.gate.clear()
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise
        finally:
            self.seen.append("end")


async def quick():
    pass


async def broken():
    raise OSError("gone")


def test_a_coroutine_that_does_not_suspend_is_finished():
    assert step(quick()) is None


def test_its_exception_is_raised():
    with pytest.raises(OSError, match="gone"):
        step(broken())


async def test_a_suspended_coroutine_can_be_awaited_to_its_end():
    slow = Slow()
    unfinished = step(slow())
    assert slow.seen == ["first"]
    task = asyncio.ensure_future(_awaited(unfinished))
    for _ in range(2):
        slow.gate.set()
        await asyncio.sleep(0.01)
    await task
    assert slow.seen == ["first", "second", "end"]


async def test_its_future_may_be_done_before_it_is_awaited():
    slow = Slow()
    unfinished = step(slow())
    slow.gate.set()
    task = asyncio.ensure_future(_awaited(unfinished))
    await asyncio.sleep(0.01)
    assert slow.seen == ["first", "second"]
    slow.gate.set()
    await task


async def test_a_cancellation_reaches_it():
    slow = Slow()
    task = asyncio.ensure_future(_awaited(step(slow())))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slow.seen == ["first", "cancelled", "end"]


async def test_a_suspended_coroutine_can_be_closed():
    slow = Slow()
    step(slow()).close()
    assert slow.seen == ["first", "end"]


async def _awaited(unfinished):
    await unfinished


def test_only_the_send_of_a_known_server_is_offered():
    scope = {}
    offer_direct(scope, quick)
    assert direct(scope) is None


@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")
@pytest.mark.parametrize("own", [True, False], ids=["our own app", "behind a middleware"])
async def test_a_stream_is_the_same_with_and_without_direct_sending(database, own):
    async with LocalAbly() as server:
        history = History(settings_for(database, server, service_keys="a-key-of-backends"))
        app = history.app() if own else _foreign(history)
        conversation = f"s-{secrets.token_hex(4)}"
        headers = {"Authorization": "Bearer a-key-of-backends"}
        async with (
            served_beside(app) as url,
            httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE_S) as client,
            publisher_to(server, f"ai:{conversation}") as publisher,
            streamed(client, conversation) as stream,
        ):
            assert (await stream.next()).kind == "snapshot"
            for n in range(1, 20):
                await publisher.publish_message("token", f"{n} ", rid="r", seq=n)
            events = await stream.take(19)
        assert [each.data["text"] for each in events] == [f"{n} " for n in range(1, 20)]


def _foreign(history):
    """A backend whose middleware checks the current task, as anyio does."""

    async def passing(request, call_next):
        return await call_next(request)

    app = FastAPI()
    app.add_middleware(BaseHTTPMiddleware, dispatch=passing)
    app.include_router(history.router(authorize=lambda *_: True))
    return app
