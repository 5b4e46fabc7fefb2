"""Filtered subscriptions (D:pub-sub/advanced, subscription filters)."""

from __future__ import annotations

import base64

import pytest

from channel_server.clients import arrives, into
from localably.errors import RefusedError
from localably.filters import MessageFilter
from localably.messages import Delivery, Message

FILTER = 'name == `"ice-cream"` && headers.flavor == `"strawberry"` && headers.cost < `50`'


def message(data, name="ice-cream", **headers):
    return {"name": name, "data": data, "extras": {"headers": headers}}


MESSAGES = [
    message("yes", flavor="strawberry", cost=35),
    message("dear", flavor="strawberry", cost=50),
    message("other", flavor="lemon", cost=35),
    message("named", "sorbet", flavor="strawberry", cost=35),
    {"name": "ice-cream", "data": "bare"},
    message("also", flavor="strawberry", cost=1),
]


async def test_ably_js_receives_what_its_filter_selects(js):
    seen = await js("filtered", filter=FILTER, messages=MESSAGES)
    assert seen["data"] == ["yes", "also"] * 2
    assert seen["modes"] == ["subscribe"]
    for refusal in ("publish", "history", "bad"):
        assert seen[refusal]["statusCode"] in (400, 401), refusal
    assert seen["bad"]["code"] == 40000
    assert seen["denied"]["code"] == 40160
    assert seen["granted"] is None


async def test_a_filter_also_selects_appends_and_what_a_resume_replays(js):
    seen = await js("filtered_resume")
    assert seen == {"live": [["yes", "a"], ["yes", "b"], ["yes", "missed"]], "resumed": True}


async def test_ably_python_receives_what_its_filter_selects(clients):
    client = await clients.realtime()
    encoded = base64.b64encode(FILTER.encode()).decode()
    got = []
    await client.channels.get(f"[filter={encoded}]room").subscribe(into(got))
    rest = await clients.rest()
    for each in MESSAGES:
        await rest.request("POST", "/channels/room/messages", "5", body=each)
    await arrives(got, 2)
    assert [m.data for m in got] == ["yes", "also"]


def selects(text, **fields):
    chosen = MessageFilter(base64.b64encode(text.encode()).decode())
    return chosen.selected(Delivery({}, [Message(fields)])) is not None


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("headers.n", True),  # 0 is true in JMESPath
        ("headers.empty", False),
        ("headers.missing", False),
        ("headers.no", False),
        ("starts_with(headers.n, name)", False),  # an error of types
        ('starts_with(name, `"a"`)', True),
        ("data", False),  # payloads are opaque
    ],
)
def test_a_result_counts_as_jmespath_defines_it(text, selected):
    headers = {"n": 0, "empty": "", "no": False}
    assert selects(text, name="abc", data="x", extras={"headers": headers}) is selected


def test_a_deeply_nested_expression_selects_nothing_or_is_refused():
    assert not selects("a" + ".a" * 700, name="abc")
    with pytest.raises(RefusedError):
        selects("(" * 700 + "a" + ")" * 700)


@pytest.mark.parametrize("encoded", ["%%%", "bmFtZSA9PQ==", "", "YQ" * 2000])
def test_an_invalid_filter_is_refused(encoded):
    with pytest.raises(RefusedError) as refused:
        MessageFilter(encoded)
    assert refused.value.code == 40000
