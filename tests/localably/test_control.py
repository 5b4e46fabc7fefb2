"""The control endpoint, for this machine only."""

from __future__ import annotations

import pytest


@pytest.mark.faults_may_not_fire
async def test_faults_are_listed_switched_on_and_off(http):
    async with http.put(
        "/localably/faults/refuse_publish", json={"nth": 1, "code": 40009}
    ) as answer:
        assert (await answer.json())["parameters"] == {"nth": 1, "code": 40009}
    for status in (400, 201):
        async with http.post("/channels/a/messages", json={"data": "x"}) as answer:
            assert answer.status == status
    async with http.get("/localably/faults") as answer:
        listing = await answer.json()
    assert listing["refuse_publish"].items() >= {"on": True, "asked": 2, "fired": 1}.items()
    async with http.delete("/localably/faults/refuse_publish") as answer:
        assert (await answer.json())["refuse_publish"]["on"] is False
    async with http.put("/localably/faults/freeze") as answer:
        assert answer.status == 200
    async with http.delete("/localably/faults") as answer:
        assert not any(entry["on"] for entry in (await answer.json()).values())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("no_such", {}),
        ("freeze", {"no": 1}),
        ("freeze", []),
        ("freeze", {"name": "x"}),
        ("freeze", "x"),
    ],
)
async def test_an_invalid_fault_is_a_bad_request(http, path, body):
    async with http.put(f"/localably/faults/{path}", json=body) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["code"] == 40000


async def test_channels_are_listed_with_their_counts(http, server, clients):
    client = await clients.realtime()
    await client.channels.get("mutable:room").attach()
    await client.channels.get("mutable:room").publish("n", "x")
    async with http.get("/localably/channels") as answer:
        listing = await answer.json()
    [channel] = listing["channels"]
    assert channel.items() >= {
        "name": "mutable:room", "messages": 1, "published": 1, "attachments": 1, "mutable": True
    }.items()  # fmt: skip
    assert channel["bytes"] > 0
    assert listing["connections"] == 1


async def test_expire_cut_and_restart(http, server):
    async with http.post("/channels/a/messages", json={"data": "x"}):
        pass
    async with http.post("/localably/expire", json={"channel": "a"}) as answer:
        assert await answer.json() == {"expired": 1}
    async with http.get("/channels/a/messages") as answer:
        assert await answer.json() == []
    async with http.post("/localably/cut", json={"client_id": "nobody"}) as answer:
        assert await answer.json() == {"cut": 0}
    async with http.post("/localably/cut", json={"no": "x"}) as answer:
        assert answer.status == 400
    async with http.post("/localably/restart") as answer:
        assert answer.status == 200
    assert server.hub.channels() == []


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Host": "10.0.0.1:80"}],
)
async def test_other_origins_and_names_are_refused(http, headers):
    async with http.get("/localably/faults", headers=headers) as answer:
        assert answer.status == 403
        assert "Access-Control-Allow-Origin" not in answer.headers
