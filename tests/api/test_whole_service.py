"""The HTTP API over a real Postgres, channel server, uvicorn and stock SDK."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from ably import AblyRest
from fastapi import FastAPI, HTTPException

from api.conftest import problem
from api.minting import ADMIN_KEY, OTHER_KEY, READER, SERVICE_KEY, bearer, mint
from api.serving import served_beside
from localably import LocalAbly
from localably.capability import ServerCapability
from localably.config import Key
from rehydrate.core.positions import Cursor, encode_cursor
from rehydrate.history import History
from rehydrate.settings import load_settings
from tcp_proxy import TcpProxy
from waiting import PATIENCE_S

KEY = "app1.whole:0123456789abcdef0123456789abcdef"
NARROW_KEY = "app1.narrow:abcdef0123456789abcdef0123456789"
TEXT = "むかしむかし、👩‍👩‍👧 é̂ "


def as_key(text, capability=None):
    name, _, secret = text.partition(":")
    app_id, key_id = name.split(".")
    if capability is None:
        return Key(app_id, key_id, secret)
    return Key(app_id, key_id, secret, ServerCapability(capability))


def settings_for(database_url, port):
    return load_settings(
        database_url=database_url,
        ably_api_key=KEY,
        ably_keys=f"{KEY},{NARROW_KEY}",
        ably_endpoint="127.0.0.1",
        ably_port=port,
        ably_tls=False,
        service_keys=SERVICE_KEY,
        admin_keys=ADMIN_KEY,
    )


@pytest.fixture(scope="module")
async def ably():
    narrow = as_key(NARROW_KEY, {"ai:narrow-*": ["history"], "ai:narrow": ["history"]})
    async with LocalAbly(keys=[as_key(KEY), narrow]) as server:
        yield server


@pytest.fixture(scope="module")
async def settings(module_database, ably):
    return settings_for(module_database, ably.port)


@pytest.fixture(scope="module")
async def url(settings):
    async with served_beside(History(settings).app()) as url:
        yield url


@pytest.fixture
async def client(url):
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as made:
        yield made


@pytest.fixture
async def backend(client):
    client.headers.update(bearer(SERVICE_KEY))
    return client


@pytest.fixture
async def operator(client):
    client.headers.update(bearer(ADMIN_KEY))
    return client


@pytest.fixture(scope="module")
async def rest(ably):
    """The stock SDK, with a token that it requests itself."""
    made = AblyRest(key=KEY, endpoint="127.0.0.1", port=ably.port, tls=False, use_token_auth=True)
    async with made:
        yield made


async def opaque(rest, capability):
    details = await rest.auth.request_token({"capability": capability}, key_name=KEY.split(":", maxsplit=1)[0],
                                            key_secret=KEY.split(":")[1])  # fmt: skip
    return details.token


async def test_it_is_ready(client):
    answer = await client.get("/readyz")
    checks = {"store": "ok", "channel": "ok", "tasks": "ok"}
    assert answer.json() == {"status": "ok", "checks": checks}


async def test_messages_are_stored_once_read_back_and_paged(backend):
    path = "/v1/conversations/stored%2Fwith%20odd%20name/messages"
    messages = [
        {"id": f"m/{n}", "role": "assistant" if n % 2 else "user", "text": f"{TEXT}{n} \0"}
        for n in range(7)
    ]
    first = await backend.post(path, json={"messages": messages})
    assert first.json() == {"stored": [f"m/{n}" for n in range(7)], "unchanged": []}
    again = await backend.post(path, json={"messages": messages[:2]})
    assert again.json() == {"stored": [], "unchanged": ["m/0", "m/1"]}
    conflict = [messages[3] | {"text": "other"}, messages[4] | {"id": "new"}]
    problem(await backend.post(path, json={"messages": conflict}), 409, "conflict")
    problem(await backend.get(f"{path}/new"), 404, "not_found")

    seen, params, tags = [], {"limit": 3}, []
    conversation = path.removesuffix("/messages")
    for _ in range(3):
        answer = await backend.get(conversation, params=params)
        page = answer.json()
        seen = [each["text"] for each in page["messages"]] + seen
        tags.append((params.copy(), answer.headers.get("etag")))
        params["before"] = page["older"]
    assert seen == [f"{TEXT}{n} \0" for n in range(7)]
    assert page["older"] is None
    for params, tag in tags:
        if tag is not None:
            kept = {"If-None-Match": tag}
            assert (await backend.get(conversation, params=params, headers=kept)).status_code == 304


@pytest.mark.parametrize(
    "at",
    [
        "9999-12-31T23:59:59.9999Z",
        "9999-12-31T23:59:59-14:00",
        "0001-01-01T00:00:00+14:00",
        "1969-12-31T23:59:59Z",
        "2026-02-30T00:00:00Z",
    ],
)
async def test_a_time_outside_the_calendar_is_a_422(backend, at):
    message = {"id": "m", "role": "user", "text": "x", "started_at": at, "finished_at": at}
    path = "/v1/conversations/calendar/messages"
    answer = await backend.post(path, json={"messages": [message]})
    problem(answer, 422, "bad_parameter", "messages[0].started_at")


async def test_the_last_time_of_the_calendar_is_stored(backend):
    at = "9999-12-31T23:59:59.999Z"
    message = {"id": "m", "role": "user", "text": "x", "started_at": at, "finished_at": at}
    path = "/v1/conversations/year-9999"
    assert (await backend.post(f"{path}/messages", json={"messages": [message]})).status_code == 201
    (shown,) = (await backend.get(path)).json()["messages"]
    assert (shown["started_at"], shown["finished_at"]) == (at, at)


@pytest.mark.parametrize(
    "position", ["", "x", "-1", "9" * 13, "9" * 16, "9" * 19, "9" * 400, "9" * 5000, "-" + "9" * 20]
)
@pytest.mark.parametrize(
    "path",
    [
        "/v1/conversations",
        "/v1/conversations/cursors",
        "/v1/admin/conversations",
        "/v1/admin/replays",
        "/v1/admin/audit",
    ],
)
async def test_a_cursor_with_an_extreme_position_is_never_a_500(operator, path, position):
    cursor = encode_cursor(Cursor(position, "m"))
    answer = await operator.get(path, params={"before": cursor})
    assert answer.status_code in (200, 414, 422), answer.text


async def test_a_message_is_cached_by_its_etag(backend):
    path = "/v1/conversations/tagged/messages"
    message = {"id": "m", "role": "assistant", "parts": [{"type": "reasoning", "text": "hm"}]}
    assert (await backend.post(path, json={"messages": [message]})).status_code == 201
    first = await backend.get(f"{path}/m")
    assert first.json()["parts"] == message["parts"]
    again = await backend.get(f"{path}/m", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304


async def test_conversations_are_listed_newest_first(backend):
    for name in ("listed-1", "listed-2", "listed-3"):
        body = {"messages": [{"id": "m", "role": "user", "text": "x"}]}
        await backend.post(f"/v1/conversations/{name}/messages", json=body)
    names, params = [], {"limit": 2}
    while "before" not in params or params["before"] is not None:
        page = (await backend.get("/v1/conversations", params=params)).json()
        names += [row["conversation_id"] for row in page["conversations"]]
        params["before"] = page["older"]
    assert names.index("listed-3") < names.index("listed-2") < names.index("listed-1")
    assert len(names) == len(set(names))


async def test_finished_and_streaming_responses_are_in_one_answer(client, settings):
    """With the reader's own token; texts are exact while two responses interleave."""
    token = mint({"ai:streaming": ["subscribe"]}, key=KEY)
    async with (
        History(settings) as publisher,
        publisher.respond("streaming", "r-1", prompt_id="p-1") as one,
        publisher.respond("streaming", "r-2") as two,
    ):
        for n in range(20):
            one.write(f"{TEXT}{n}")
            two.write(f"{n}{TEXT}")
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = await client.get("/v1/conversations/streaming", headers=bearer(token))
                texts = {each["id"]: each for each in answer.json()["messages"]}
                whole = "".join(f"{TEXT}{n}" for n in range(20))
                if len(texts) == 2 and texts["r-1"]["text"] == whole:
                    break
                for each in texts.values():
                    assert whole.startswith(each["text"]) or each["id"] == "r-2"
                await asyncio.sleep(0.05)
        assert {each["status"] for each in texts.values()} == {"in_progress"}
        assert answer.headers["cache-control"] == "no-store"
        assert answer.json()["complete"] is True
    answer = await client.get("/v1/conversations/streaming", headers=bearer(token))
    assert [each["status"] for each in answer.json()["messages"]] == ["completed"] * 2


class TestProof:
    async def test_a_jwt_grants_access_by_its_capability(self, client):
        headers = bearer(mint({"ai:mine": ["history"]}, key=KEY))
        answer = await client.get("/v1/conversations/mine", headers=headers)
        assert (answer.status_code, answer.json()["messages"]) == (200, [])
        answer = await client.get("/v1/conversations/yours", headers=headers)
        problem(answer, 403, "forbidden")

    async def test_the_keys_capability_at_ably_applies(self, client):
        for claimed, conversation, status in [
            (READER, "narrow", 200),
            (None, "narrow", 200),
            (READER, "wide", 403),
            (None, "wide", 403),
            ({"*": ["subscribe"]}, "narrow", 403),
        ]:
            headers = bearer(mint(claimed, key=NARROW_KEY))
            answer = await client.get(f"/v1/conversations/{conversation}", headers=headers)
            assert answer.status_code == status, (claimed, conversation)

    async def test_an_expired_or_foreign_jwt_is_refused(self, client):
        for token in (mint(READER, key=KEY, ttl_s=-1), mint(READER, key=OTHER_KEY)):
            answer = await client.get("/v1/conversations/mine", headers=bearer(token))
            problem(answer, 401, "unauthorized")

    @pytest.mark.parametrize("operation", ["history", "subscribe"])
    async def test_an_opaque_token_is_checked_by_the_channel_server(self, client, rest, operation):
        headers = bearer(await opaque(rest, {"ai:mine": [operation]}))
        answer = await client.get("/v1/conversations/mine", headers=headers)
        assert answer.status_code == 200, answer.text
        answer = await client.get("/v1/conversations/yours", headers=headers)
        problem(answer, 403, "forbidden")

    async def test_an_opaque_token_that_only_publishes_reads_nothing(self, client, rest):
        headers = bearer(await opaque(rest, {"ai:mine": ["publish"]}))
        answer = await client.get("/v1/conversations/mine", headers=headers)
        problem(answer, 403, "forbidden")

    @pytest.mark.parametrize("token", ["app1.garbage", "app1.", "app2.AbCd", "garbage"])
    async def test_a_malformed_token_is_refused(self, client, token):
        answer = await client.get("/v1/conversations/mine", headers=bearer(token))
        problem(answer, 401, "unauthorized")


async def test_a_host_app_mounts_it_and_its_lifespan_opens_it(settings):
    history = History(settings)

    async def by_cookie(request, conversation_id):
        if request.cookies.get("user") is None:
            raise HTTPException(401)
        return conversation_id.startswith(request.cookies["user"])

    app = FastAPI()
    app.include_router(history.router(authorize=by_cookie), prefix="/history")
    async with (
        served_beside(app) as url,
        httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client,
    ):
        path = "/history/v1/conversations/ann%2F1"
        problem(await client.get(path), 401, "unauthorized")
        client.cookies.set("user", "ann")
        assert (await client.get(path)).json()["conversation_id"] == "ann/1"
        problem(await client.get("/history/v1/conversations/bob"), 403, "forbidden")
        problem(await client.get(f"{path}?limit=0"), 422, "bad_parameter", "limit")


async def test_without_the_channel_the_stored_part_is_served(backend, module_database):
    body = {"messages": [{"id": "m", "role": "user", "text": TEXT}]}
    await backend.post("/v1/conversations/stored-part/messages", json=body)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, and never listening: refused at once
        settings = settings_for(module_database, nobody.getsockname()[1])
        async with (
            served_beside(History(settings).app()) as url,
            httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client,
        ):
            headers = bearer(mint(READER, key=KEY))
            answer = await client.get("/v1/conversations/stored-part", headers=headers)
            assert answer.status_code == 200
            assert [each["text"] for each in answer.json()["messages"]] == [TEXT]
            assert answer.json()["complete"] is False
            (reason,) = answer.json()["reasons"]
            assert (reason["code"], reason["retry"]) == ("history_unavailable", True)
            whole = bearer(
                mint(None, key=KEY)
            )  # only Ably knows what the key may do: as last known
            answer = await client.get("/v1/conversations/stored-part", headers=whole)
            assert answer.status_code == 200
            assert (await client.get("/readyz")).json()["checks"]["channel"] != "ok"


async def test_a_key_that_ably_has_never_answered_about_signs_access_to_nothing(database):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        settings = settings_for(database, nobody.getsockname()[1])
        async with (
            served_beside(History(settings).app()) as url,
            httpx.AsyncClient(base_url=url, timeout=60) as client,
        ):
            for capability in (READER, {"*": ["*"]}, None):
                headers = bearer(mint(capability, key=KEY))
                answer = await client.get("/v1/conversations/x", headers=headers)
                problem(answer, 503, "channel_unavailable")


async def test_a_database_that_goes_away_is_a_503_until_it_comes_back(module_database, ably):
    body = {"messages": [{"id": "m", "role": "user", "text": TEXT}]}
    path = "/v1/conversations/outage"
    headers = bearer(SERVICE_KEY)
    async with (
        TcpProxy(module_database) as proxy,
        served_beside(History(settings_for(proxy.url, ably.port)).app()) as url,
        httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE_S) as client,
    ):
        assert (await client.post(f"{path}/messages", json=body)).status_code == 201
        await proxy.disconnect()
        for method, tail in (
            ("GET", path),
            ("GET", f"{path}/messages/m"),
            ("POST", f"{path}/messages"),
            ("GET", "/v1/conversations"),
            ("GET", "/readyz"),
        ):
            sent = body if method == "POST" else None
            answer = await client.request(method, tail, json=sent)
            problem(answer, 503, "store_unavailable")
            assert int(answer.headers["retry-after"]) > 0
        assert (await client.get("/healthz")).status_code == 200
        await proxy.connect()
        again = await client.get(path)
        assert [each["text"] for each in again.json()["messages"]] == [TEXT]
