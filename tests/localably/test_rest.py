"""D:api/rest-api: formats, errors, Link headers, other origins."""

from __future__ import annotations

import asyncio
import io

import msgpack
import pytest

from localably.rest import link_headers


async def test_the_answer_is_in_the_requested_format(http):
    async with http.get("/time", headers={"Accept": "application/x-msgpack"}) as answer:
        assert answer.content_type == "application/x-msgpack"
        assert isinstance(msgpack.unpackb(await answer.read())[0], int)
    async with http.get("/time") as answer:
        assert answer.content_type == "application/json"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\xc1", "application/x-msgpack"),
        (b"{", "application/json"),
        (b"", "application/json"),
        (b"5", "application/json"),
        (b"[]", "application/json"),
        (b"[5]", "application/json"),
    ],
)
async def test_an_invalid_body_is_a_bad_request_with_its_headers(http, body, kind):
    headers = {"Content-Type": kind}
    async with http.post("/channels/a/messages", data=body, headers=headers) as answer:
        assert answer.status == 400
        assert answer.headers["X-Ably-ErrorCode"] == "40000"
        assert answer.headers["X-Ably-ErrorMessage"]
        error = (await answer.json())["error"]
        assert (error["code"], error["statusCode"]) == (40000, 400)


async def test_a_body_above_the_limit_is_refused(http):
    async with http.post("/channels/a/messages", data=io.BytesIO(b"x" * 5_000_000)) as answer:
        assert answer.status == 413
        assert answer.headers["X-Ably-ErrorCode"] == "40009"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/no/such"), ("GET", "/keys/a.b/requestToken"), ("PUT", "/time")]
)
async def test_an_unknown_resource_is_40400(http, method, path):
    async with http.request(method, path) as answer:
        assert answer.status == 404
        assert answer.headers["X-Ably-ErrorCode"] == "40400"


async def test_pages_of_other_origins_may_call(http):
    origin = {"Origin": "http://app.example"}
    async with http.options("/channels/a/messages", headers=origin) as answer:
        assert answer.status == 204
        assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    async with http.get("/time", headers=origin) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Link" in answer.headers["Access-Control-Expose-Headers"]


async def test_without_credentials_it_is_40101(http):
    for path in ("/channels/a/messages", "/stats", "/channels/a", "/presence"):
        async with http.get(path, headers={"Authorization": ""}) as answer:
            assert (answer.status, answer.headers["X-Ably-ErrorCode"]) == (401, "40101")
    async with http.get("/time", headers={"Authorization": ""}) as answer:
        assert answer.status == 200


async def test_the_fault_stalls_requests(http, server):
    server.faults.set("stall_requests", seconds=60, count=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), http.get("/time"):
            pass
    async with http.get("/time") as answer:
        assert answer.status == 200


def test_links_have_the_form_that_ably_js_reads():
    links = link_headers("messages", {"limit": "2"}, {"limit": "2", "cursor": "a,b@c"})
    assert [value for _, value in links] == [
        '<./messages?limit=2>; rel="first"',
        '<./messages?limit=2>; rel="current"',
        '<./messages?limit=2&cursor=a%2Cb%40c>; rel="next"',
    ]
