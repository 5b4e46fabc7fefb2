"""The apps that the SDKs' own test suites create."""

from __future__ import annotations

import base64
import ssl

import aiohttp
import pytest

from localably import LocalAbly
from localably.tls import CERTIFICATE

SPEC = {
    "limits": {"presence": {"maxMembers": 250}},
    "keys": [{}, {"capability": '{"a":["subscribe"]}'}, {"revocableTokens": True}],
    "namespaces": [
        {"id": "persisted", "persisted": True},
        {"id": "mutable", "mutableMessages": True},
    ],
    "channels": [
        {"name": "persisted:fixtures", "presence": [{"clientId": "client_bool", "data": "true"}]}
    ],
}


def as_key(key):
    return {"Authorization": f"Basic {base64.b64encode(key.encode()).decode()}"}


async def made(http):
    async with http.post("/apps", json=SPEC, headers={"Authorization": ""}) as answer:
        assert answer.status == 201
        return await answer.json()


async def test_an_app_is_created_with_keys_namespaces_and_members(http):
    app = await made(http)
    assert len(app["keys"]) == 3
    assert [n["id"] for n in app["namespaces"]] == ["persisted", "mutable"]
    first, narrow = app["keys"][0], app["keys"][1]
    assert first["keyStr"] == f"{app['appId']}.{first['id']}:{first['value']}"
    assert first["capability"] == '{"*":["*"]}'
    headers = as_key(first["keyStr"])
    async with http.get("/channels/persisted:fixtures/presence", headers=headers) as answer:
        [member] = await answer.json()
    assert (member["clientId"], member["data"], member["action"]) == ("client_bool", "true", 1)
    async with http.post(
        "/channels/a/messages", json={}, headers=as_key(narrow["keyStr"])
    ) as answer:
        assert answer.headers["X-Ably-ErrorCode"] == "40160"


@pytest.mark.parametrize("tls", [False, True])
async def test_the_answer_says_where_sdks_connect(tmp_path, tls):
    async with LocalAbly(tls_dir=tmp_path if tls else None) as server:
        trusted = ssl.create_default_context(cafile=tmp_path / CERTIFICATE) if tls else True
        async with aiohttp.ClientSession(server.url) as session:
            answer = await session.post("/apps", json={}, ssl=trusted)
            app = await answer.json()
        address = (app["endpoint"], app["port"], app["tls"])
        assert address == ("127.0.0.1", server.port, tls)


async def test_an_app_is_deleted_with_its_own_key_only(http, server):
    app = await made(http)
    path, headers = f"/apps/{app['appId']}", as_key(app["keys"][0]["keyStr"])
    async with http.delete(path) as answer:
        assert answer.status == 403
    async with http.delete(path, headers=headers) as answer:
        assert answer.status == 200
    async with http.get("/channels/a/messages", headers=headers) as answer:
        assert answer.headers["X-Ably-ErrorCode"] == "40400"
    async with http.delete(f"/apps/{server.key.partition('.')[0]}") as answer:
        assert answer.status == 403, "the server's own app stays"


@pytest.mark.parametrize(
    "spec", [[], {"keys": "x"}, {"keys": [1]}, {"namespaces": [{}]}, {"channels": [5]}]
)
async def test_an_invalid_spec_creates_no_app(http, server, spec):
    before = len(server.hub.apps)
    async with http.post("/apps", json=spec) as answer:
        assert answer.status == 400
    assert len(server.hub.apps) == before


async def test_statistics_are_accepted_and_empty(http):
    async with http.get("/stats") as answer:
        assert await answer.json() == []
    async with http.post("/stats", json=[{"intervalId": "x"}]) as answer:
        assert answer.status == 201
