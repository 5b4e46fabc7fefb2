"""The admin routes over a whole service: authorization, answers, audit."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest

from api.conftest import calling, problem
from api.minting import bearer
from localably import LocalAbly
from participants import settings_for
from rehydrate import History, NewMessage
from waiting import PATIENCE_S

ADMIN, SERVICE = "the key of an admin", "the key of a backend"
START = "/v1/admin/conversations/c/responses/r/replay"
TOKENS = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
async def ably():
    async with LocalAbly() as server:
        yield server


@pytest.fixture(scope="module")
async def history(module_database, ably):
    settings = settings_for(
        module_database,
        ably,
        service_keys=SERVICE,
        admin_keys=ADMIN,
        replay_channels="demo:*,one",
    )
    return History(settings)


@pytest.fixture(scope="module")
async def app(history):
    made = history.app()
    async with made.router.lifespan_context(made):
        async with history.respond("c", "r") as response:
            for token in TOKENS:
                response.write(token)
                response.text  # noqa: B018 - settles
        await history.store_messages("c", [NewMessage("p", "user", text="?")])
        yield made


@pytest.fixture
async def admin(app):
    async with clients(app, ADMIN) as client:
        yield client


@contextlib.asynccontextmanager
async def clients(app, key):
    """Yield a client of an app whose lifespan is already running."""
    transport = httpx.ASGITransport(app, client=("10.9.8.7", 1))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://t", headers=bearer(key)
    ) as client:
        yield client


async def ended(client, replay_id):
    async with asyncio.timeout(PATIENCE_S):
        while True:
            body = (await client.get(f"/v1/admin/replays/{replay_id}")).json()
            if body["state"] in {"done", "failed", "cancelled"}:
                return body
            await asyncio.sleep(0.02)


async def replay_ids(client):
    return [each["replay_id"] for each in (await client.get("/v1/admin/replays")).json()["replays"]]


async def test_a_replay_is_accepted_and_runs_to_its_end(admin):
    answer = await admin.post(START, json={"speed": 0})
    assert answer.status_code == 202, answer.text
    body = answer.json()
    place = answer.request.url.join(answer.headers["location"])
    assert place.path == f"/v1/admin/replays/{body['replay_id']}"
    assert (await admin.get(place)).json()["replay_id"] == body["replay_id"]
    assert (body["state"], body["chunks"], body["done"]) == ("queued", 4, 0)
    assert (body["channel"], body["max_rate"]) == ("ai:c", 25)
    done = await ended(admin, body["replay_id"])
    assert (done["state"], done["done"], done["error"]) == ("done", 4, None)
    assert done["seconds_done"] == done["seconds"]
    listed = (await admin.get("/v1/admin/replays")).json()
    assert done in listed["replays"]


async def test_without_a_body_the_defaults_apply(admin):
    body = (await admin.post(START)).json()
    assert (body["mode"], body["speed"]) == ("stream", 1)


async def test_a_dry_run_returns_the_schedule_and_publishes_nothing(admin):
    before = await replay_ids(admin)
    answer = await admin.post(START, json={"dry_run": True, "speed": 0})
    assert answer.status_code == 200
    body = answer.json()
    assert [step["kind"] for step in body["schedule"]] == ["start", *["token"] * 4, "stop"]
    assert await replay_ids(admin) == before


async def test_the_same_idempotency_key_returns_the_same_replay(admin):
    headers = {"Idempotency-Key": "k-1"}
    first, again = [
        (await admin.post(START, json={"speed": 0}, headers=headers)).json() for _ in range(2)
    ]
    assert first["replay_id"] == again["replay_id"]
    other = await admin.post(START, json={"speed": 1}, headers=headers)
    problem(other, 409, "conflict")
    problem(
        await admin.post(START, headers={"Idempotency-Key": "x" * 300}),
        422,
        "bad_parameter",
        "Idempotency-Key",
    )


async def test_cancelling_a_replay_is_idempotent(admin):
    slow = {"speed": 0, "max_rate": 1, "channel": "demo:slow"}
    body = (await admin.post(START, json=slow)).json()
    path = f"/v1/admin/replays/{body['replay_id']}"
    first = await admin.delete(path)
    assert (first.status_code, first.json()["state"]) == (200, "cancelled")
    again = await admin.delete(path)
    assert (again.status_code, again.json()) == (200, first.json())


@pytest.mark.parametrize(
    ("path", "body", "wanted"),
    [
        (START.replace("/r/", "/nobody/"), {}, (404, "not_found", None)),
        (START.replace("/c/", "/nobody/"), {}, (404, "not_found", None)),
        (START.replace("/r/", "/p/"), {}, (404, "not_found", None)),
        (START.replace("/c/", "/a*/"), {}, (422, "bad_parameter", "conversation_id")),
        (START, {"speed": -1}, (422, "bad_parameter", "speed")),
        (START, {"speed": 1001}, (422, "bad_parameter", "speed")),
        (START, {"max_rate": 500}, (422, "bad_parameter", "max_rate")),
        (START, {"from_seq": 99}, (422, "bad_parameter", "from_seq")),
        (START, {"channel": ""}, (422, "bad_parameter", "channel")),
        (START, {"channel": "[x]y"}, (422, "bad_parameter", "channel")),
        (START, {"channel": "a:*"}, (422, "bad_parameter", "channel")),
        (START, {"channel": "other"}, (403, "forbidden", None)),
        (START, {"channel": "ai:other"}, (403, "forbidden", None)),
        (START, {"channel": "one", "mode": "repair"}, (422, "bad_parameter", "channel")),
    ],
)
async def test_an_invalid_request_is_refused_and_recorded(admin, path, body, wanted):
    _, code, parameter = wanted
    problem(await admin.post(path, json=body), *wanted)
    problem(await admin.post(path, json={**body, "dry_run": True}), *wanted)
    (entry,) = (await admin.get("/v1/admin/audit?limit=1")).json()["audit"]
    if parameter not in ("speed", "conversation_id"):
        assert entry["outcome"] == f"refused: {code}"
        assert entry["action"] == "replay_dry_run"


async def test_a_speed_that_is_not_a_number_is_refused(admin):
    answer = await admin.post(
        START, content='{"speed": NaN}', headers={"content-type": "application/json"}
    )
    problem(answer, 422, "bad_parameter", "body")


async def test_an_open_response_cannot_be_replayed(admin, history):
    async with history.respond("c", "open"):
        problem(await admin.post(START.replace("/r/", "/open/"), json={}), 409, "conflict")


async def test_a_replay_may_use_only_the_configured_channels(admin):
    for channel in ("demo:a", "demo:a:b", "one"):
        answer = await admin.post(START, json={"channel": channel, "speed": 0})
        assert answer.status_code == 202
        assert (await ended(admin, answer.json()["replay_id"]))["channel"] == channel


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", START),
        ("GET", "/v1/admin/replays"),
        ("GET", "/v1/admin/replays/x"),
        ("DELETE", "/v1/admin/replays/x"),
        ("GET", "/v1/admin/audit"),
        ("GET", "/v1/admin/conversations"),
        ("GET", "/v1/admin/health"),
    ],
)
async def test_other_callers_are_refused_and_recorded(app, admin, method, path):
    async with clients(app, SERVICE) as backend:
        problem(await backend.request(method, path), 403, "forbidden")
    (entry,) = (await admin.get("/v1/admin/audit?limit=1")).json()["audit"]
    assert entry["actor"].startswith("service:")
    assert entry["action"].startswith(f"{method} /v1/admin/")
    assert (entry["outcome"], entry["address"]) == ("refused: forbidden", "10.9.8.7")
    async with clients(app, "a stranger's") as stranger:
        problem(await stranger.request(method, path), 401, "unauthorized")


async def test_the_audit_has_actor_action_target_and_outcome(admin):
    body = (await admin.post(START, json={"speed": 0, "max_rate": 20})).json()
    await ended(admin, body["replay_id"])
    entries = (await admin.get("/v1/admin/audit")).json()["audit"]
    mine = [e for e in entries if (e["detail"] or {}).get("replay_id") == body["replay_id"]]
    assert [e["outcome"] for e in mine] == ["done", "accepted"]
    assert {e["actor"] for e in mine} == {body["asked_by"]}
    assert ADMIN not in str(entries)
    accepted = mine[1]
    assert (accepted["action"], accepted["target"]) == ("replay", "ai:c")
    assert (accepted["conversation_id"], accepted["address"]) == ("c", "10.9.8.7")
    assert accepted["detail"]["response_id"] == "r"
    assert accepted["detail"]["max_rate"] == 20


async def test_an_unknown_replay_is_not_found(admin):
    for method in ("GET", "DELETE"):
        problem(await admin.request(method, "/v1/admin/replays/nobody"), 404, "not_found")


async def test_pages_go_backwards(admin):
    for path, name in (("/v1/admin/replays", "replays"), ("/v1/admin/audit", "audit")):
        whole = (await admin.get(path, params={"limit": 200})).json()[name]
        found, before = [], None
        while True:
            query = {"limit": 3, **({"before": before} if before else {})}
            page = (await admin.get(path, params=query)).json()
            found += page[name]
            before = page["older"]
            if before is None:
                break
        assert found == whole
        problem(await admin.get(path, params={"before": "x"}), 422, "bad_parameter", "before")


async def test_without_an_admin_service_there_are_no_admin_routes(standin):
    from api.conftest import make_access  # noqa: PLC0415 - of the stand-in
    from rehydrate.api.app import create_app  # noqa: PLC0415 - as above

    async with calling(create_app(standin, make_access())) as client:
        problem(await client.get("/v1/admin/replays"), 404, "not_found")
