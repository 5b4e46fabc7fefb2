"""RSL1, RSC22, RSL15 over plain HTTP and stock ably-js."""

from __future__ import annotations

import pytest


async def test_publish_answers_with_channel_id_and_serials(http):
    async with http.post("/channels/a%2Fb/messages", json=[{"data": "1"}, {"data": "2"}]) as answer:
        made = await answer.json()
    assert answer.status == 201
    assert made["channel"] == "a/b"
    assert made["messageId"].endswith(":0")
    assert len(made["serials"]) == 2


async def test_refusals_have_their_codes(js):
    seen = await js("refusals")
    codes = {name: seen[name]["code"] for name in ("large", "ids", "nack", "limit")}
    assert codes == {"large": 40009, "ids": 40031, "nack": 40099, "limit": 40000}
    assert seen["unknown"] == [404, 40400]


async def test_rsc22_a_batch_publishes_where_it_is_permitted(js):
    seen = await js("batch")
    result = seen["result"]
    assert (result["successCount"], result["failureCount"]) == (1, 1)
    assert result["results"][0]["channel"] == "one"
    assert result["results"][0]["messageId"].endswith(":0")
    assert result["results"][1]["error"]["code"] == 40160
    assert seen["history"] == ["b", "a"]
    assert seen["old"] == [201, ["x1", "x2"]]


async def test_a_batch_of_the_old_protocol_that_fails_in_part_is_40020(http):
    body = {"channels": ["a", ":bad"], "messages": {"data": "x"}}
    async with http.post("/messages", json=body, headers={"X-Ably-Version": "2"}) as answer:
        assert answer.status == 400
        answered = await answer.json()
    assert answered["error"]["code"] == 40020
    assert [entry.get("error", {}).get("code") for entry in answered["batchResponse"]] == [
        None,
        40010,
    ]


@pytest.mark.parametrize(
    "body",
    [
        5,
        [],
        {},
        {"channels": [], "messages": []},
        {"channels": ["a"] * 101, "messages": []},
        {"channels": ["a"], "messages": [{}] * 1001},
    ],
    ids=range(6),
)
async def test_an_invalid_batch_is_refused(http, body):
    async with http.post("/messages", json=body) as answer:
        assert answer.status == (201 if body == [] else 400)


@pytest.mark.parametrize(
    "body", [{}, {"action": 0}, {"action": 9}, [], {"action": 1, "version": 5}]
)
async def test_an_invalid_change_is_refused(http, body):
    async with http.post("/channels/mutable:a/messages", json={"data": "x"}) as answer:
        [serial] = (await answer.json())["serials"]
    async with http.patch(f"/channels/mutable:a/messages/{serial}", json=body) as answer:
        assert answer.status == 400
