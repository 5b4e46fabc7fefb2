from __future__ import annotations

import http.client
import json
import urllib.request
from urllib.parse import quote, urlsplit

import pytest
from fastapi import FastAPI
from starlette.requests import Request

from api.conftest import problem
from api.minting import SERVICE_KEY, bearer
from rehydrate.api.routing import Route, request_id

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


@pytest.mark.parametrize("conversation", [*ODD, ".", "..", "..."])
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
