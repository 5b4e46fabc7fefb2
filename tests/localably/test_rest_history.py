"""RSL2, RSL8, RSL11, RSL14 over plain HTTP."""

from __future__ import annotations

import pytest


async def filled(http, *texts, channel="a"):
    for text in texts:
        async with http.post(f"/channels/{channel}/messages", json={"data": text}) as answer:
            assert answer.status == 201


async def read(http, channel="a", **params):
    async with http.get(f"/channels/{channel}/messages", params=params) as answer:
        assert answer.status == 200, await answer.text()
        return [m["data"] for m in await answer.json()]


@pytest.mark.parametrize(
    "params",
    [
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "abc"},
        {"limit": "-1"},
        {"limit": "٥"},
        {"direction": "sideways"},
        {"start": "x"},
        {"start": "2", "end": "1"},
        {"from_serial": "x" * 300},
        {"from_serial": "01700000000000-000@x", "direction": "forwards"},
    ],
    ids=str,
)
async def test_an_invalid_parameter_is_named(http, params):
    async with http.get("/channels/a/messages", params=params) as answer:
        assert answer.status == 400
        message = (await answer.json())["error"]["message"]
    assert any(name in message for name in params)


async def test_an_unknown_channel_is_empty_and_not_created(http, server):
    assert await read(http, "nobody") == []
    assert server.hub.channels() == []


async def test_an_expired_position_is_90008(http):
    await filled(http, "x")
    async with http.get(
        "/channels/a/messages", params={"from_serial": "00000000000001-000@x"}
    ) as answer:
        assert (answer.status, answer.headers["X-Ably-ErrorCode"]) == (400, "90008")


@pytest.mark.parametrize(("status", "code"), [(500, "50000"), (503, "50300"), (429, "42900")])
async def test_the_fault_makes_history_fail(http, server, status, code):
    server.faults.set("fail_history", status=status, retry_after_s=7, count=1)
    async with http.get("/channels/a/messages") as answer:
        assert answer.status == status
        assert answer.headers["X-Ably-ErrorCode"] == code
        assert answer.headers["Retry-After"] == "7"
    assert await read(http) == []


async def test_the_fault_makes_history_lag(http, server):
    await filled(http, "x")
    with server.faults.on("delay_history", ms=60_000):
        assert await read(http) == []
    assert await read(http) == ["x"]


async def test_a_message_is_read_by_its_serial_and_needs_the_capability(http):
    async with http.post("/channels/a/messages", json={"name": "n", "data": "x"}) as answer:
        [serial] = (await answer.json())["serials"]
    async with http.get(f"/channels/a/messages/{serial}") as answer:
        assert (await answer.json())["data"] == "x"
    async with http.post("/keys/none/requestToken", json={}) as answer:
        assert answer.status == 401


async def test_rsl8_the_status_counts_the_attachments(http, clients):
    client = await clients.realtime()
    await client.channels.get("room").attach()
    async with http.get("/channels/room") as answer:
        status = await answer.json()
    assert status["channelId"] == "room"
    assert status["status"]["isActive"] is True
    metrics = status["status"]["occupancy"]["metrics"]
    assert (metrics["connections"], metrics["subscribers"], metrics["presenceMembers"]) == (1, 1, 0)
    async with http.get("/channels", params={"prefix": "ro"}) as answer:
        assert await answer.json() == ["room"]
