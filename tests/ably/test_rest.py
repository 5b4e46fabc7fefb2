"""Requests are retried and limited in time, tokens are signed, history is read page by page."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from contextlib import aclosing

import jwt
import pytest
from ably.types.message import Message
from hypothesis import given
from hypothesis import strategies as st

from ably_channel import opened
from localably import Key, LocalAbly
from rehydrate.ably.rest import (
    AblyKey,
    Credentials,
    bearer,
    decoded,
    from_live,
    from_rows,
    messages_path,
)
from rehydrate.core.event import UNDECODED, ChannelMessage
from rehydrate.errors import ChannelRefused, ChannelUnavailable, NotConfigured, Unauthorized
from rehydrate.ports import Outgoing
from waiting import PATIENCE_S

HTML = (502, "text/html", b"<html>bad gateway</html>")
EMPTY = (200, "application/json", b"[]")


def error(status, code, **headers):
    body = json.dumps({"error": {"code": code, "statusCode": status, "message": "as scripted"}})
    return (status, "application/json", body.encode(), headers)


async def read(log, **how):
    return [m for page in [page async for page in log.history("c", **how)] for m in page]


@pytest.mark.parametrize(
    "failing",
    [
        HTML,
        error(500, 50000),
        error(503, 50003),
        error(429, 42910, **{"Retry-After": "0"}),
        (200, "text/plain", b"captive portal"),
        (200, "application/json", b"[{"),
        (200, "application/x-msgpack", b"\xc1"),
    ],
    ids=["html", "500", "503", "429", "text", "cut json", "bad msgpack"],
)
async def test_a_transient_failure_is_retried(stub, failing):
    stub.answers = [failing, failing, EMPTY]
    async with opened(stub) as log:
        assert await read(log) == []
    assert len(stub.requests) == 3


@pytest.mark.parametrize("failing", [HTML, error(500, 50000), (200, "application/json", b"7")])
async def test_a_lasting_failure_is_unavailable(stub, failing):
    stub.answers = [failing]
    async with opened(stub) as log:
        with pytest.raises(ChannelUnavailable) as caught:
            await read(log)
    assert not isinstance(caught.value, ChannelRefused)
    assert len(stub.requests) <= 4


async def test_a_retry_after_beyond_the_time_limit_fails_at_once(stub):
    stub.answers = [error(429, 42910, **{"Retry-After": "30"})]
    async with opened(stub) as log:
        with pytest.raises(ChannelUnavailable) as caught:
            await read(log)
    assert caught.value.retry_after_s == 30
    assert len(stub.requests) == 1


async def test_a_short_retry_after_is_honoured(stub):
    stub.answers = [error(503, 50003, **{"Retry-After": "1"}), EMPTY]
    async with opened(stub) as log:
        began = time.monotonic()
        assert await read(log) == []
        assert time.monotonic() - began >= 1


@pytest.mark.parametrize(("status", "code"), [(400, 40000), (401, 40160), (403, 40300)])
async def test_a_refusal_is_not_retried(stub, status, code):
    stub.answers = [error(status, code)]
    async with opened(stub) as log:
        with pytest.raises(ChannelRefused) as caught:
            await read(log)
    assert caught.value.ably_code == code
    assert len(stub.requests) == 1


async def test_a_silent_server_fails_within_the_time_limit(server):
    server.faults.set("stall_requests", seconds=60)
    async with opened(server, request_timeout_s=0.6) as log:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ChannelUnavailable, match=r"within 0\.6 s"):
                await read(log)
        server.faults.clear()
        assert await read(log) == []


async def test_one_stuck_answer_leaves_time_for_a_retry(server):
    server.faults.set("stall_requests", seconds=60, nth=1)
    async with opened(server) as log:
        assert await read(log) == []


async def test_a_closed_port_is_unavailable():
    class Nobody:
        key = "a.b:" + "c" * 32

    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        Nobody.port = taken.getsockname()[1]
        async with opened(Nobody) as log:
            for asking in (read(log), log.ready()):
                with pytest.raises(ChannelUnavailable):
                    await asking


async def test_the_key_is_never_sent(stub):
    stub.answers = [EMPTY]
    async with opened(stub) as log:
        await read(log)
    (request,) = stub.requests
    assert request.headers["Authorization"].startswith("Bearer ")
    sent = f"{request.url} {dict(request.headers)}"
    assert stub.key.partition(":")[2] not in sent


async def test_a_token_that_is_refused_is_replaced_once(stub):
    stub.answers = [error(401, 40142), EMPTY]
    async with opened(stub) as log:
        assert await read(log) == []
    first, second = stub.requests
    assert first.headers["Authorization"] != second.headers["Authorization"]


async def test_a_token_refused_twice_is_a_refusal(stub):
    stub.answers = [error(401, 40142)]
    async with opened(stub) as log:
        with pytest.raises(ChannelRefused) as caught:
            await read(log)
    assert caught.value.ably_code == 40142
    assert len(stub.requests) == 2


@pytest.mark.parametrize("wrong_by_s", [-90_000, 90_000])
async def test_a_machine_with_a_wrong_clock_reads_and_publishes(server, monkeypatch, wrong_by_s):
    monkeypatch.setattr(Credentials.__init__, "__defaults__", (lambda: time.time() + wrong_by_s,))
    async with opened(server) as log:
        assert await read(log) == []
        await log.publish("c", [Outgoing("token", "x", "1")])
        assert len(await read(log)) == 1


async def test_a_machine_with_a_wrong_clock_can_publish_first(server, monkeypatch):
    monkeypatch.setattr(Credentials.__init__, "__defaults__", (lambda: time.time() - 90_000,))
    async with opened(server) as log:
        assert await log.publish("c", [Outgoing("token", "x", "1")])


async def test_a_request_after_closing_is_unavailable(server):
    async with opened(server) as log:
        await log.ready()
        await log.close()
        for asking in (log.ready(), read(log)):
            with pytest.raises(ChannelUnavailable, match="closed"):
                await asking


async def test_a_given_token_is_sent_instead_of_the_services_own(stub):
    stub.answers = [error(401, 40101)]
    async with opened(stub) as log:
        with pytest.raises(Unauthorized):
            await log.admits("a.reader.token", "c")
    (request,) = stub.requests
    assert request.headers["Authorization"] == "Bearer YS5yZWFkZXIudG9rZW4="


C = "ai:conv"


async def fill(log, count):
    serials = []
    for first in range(0, count, 500):  # few enough to be acknowledged in time on a busy machine
        numbers = range(first, min(count, first + 500))
        answers = [log.publish(C, [Outgoing("token", str(n), f"i-{n}")]) for n in numbers]
        serials += [serial for answer in answers for serial in await answer]
    return serials


async def texts_of(log, **how):
    async with aclosing(log.history(C, **how)) as pages:
        return [[m.data for m in page] async for page in pages]


def test_a_channel_may_have_any_name():
    assert messages_path("ai:a/b ?#%+語") == "/channels/ai%3Aa%2Fb%20%3F%23%25%2B%E8%AA%9E/messages"


async def test_six_thousand_messages_arrive_in_six_pages_each_once(log):
    await fill(log, 6000)
    pages = await texts_of(log)
    assert [len(page) for page in pages] == [1000] * 6
    assert [int(data) for page in reversed(pages) for data in page] == list(range(6000))


async def test_a_caller_may_stop_early(log, server):
    await fill(log, 30)
    async with aclosing(log.history(C, limit=10)) as pages:
        async for page in pages:
            assert [m.data for m in page] == [str(n) for n in range(20, 30)]
            break


@pytest.mark.parametrize("code", [90008, 90002, 40024])
async def test_a_refused_attach_point_falls_back_to_plain_history(server, log, code):
    serials = await fill(log, 30)
    server.faults.set("refuse_until_attach", code=code)
    assert await texts_of(log, until=serials[9], limit=100) == [[str(n) for n in range(30)]]


async def test_an_attach_point_that_expires_during_the_read_continues_without_it(server, log):
    serials = []
    for begin in range(3):  # at three timestamps, because plain history continues by timestamp
        serials += await fill(log, (begin + 1) * 10)
        await asyncio.sleep(0.02)
    server.faults.set("refuse_until_attach", after=1)
    pages = await texts_of(log, until=serials[-1], limit=10)
    got = [int(data) for page in pages for data in page]
    assert sorted(set(got)) == list(range(30))
    assert pages[0] == [str(n) for n in range(20, 30)]


async def test_another_refusal_does_not_fall_back(server, log):
    serials = await fill(log, 3)
    server.faults.set("refuse_until_attach", code=40160)
    with pytest.raises(ChannelRefused) as caught:
        await texts_of(log, until=serials[-1])
    assert caught.value.ably_code == 40160


async def test_a_page_that_fails_once_is_retried(server, log):
    await fill(log, 30)
    fault = server.faults.set("fail_history", every=2)
    assert len(await texts_of(log, limit=10)) == 3
    assert fault.fired >= 1


async def test_history_that_keeps_failing_is_unavailable(server, log):
    await fill(log, 3)
    server.faults.set("fail_history", status=503)
    with pytest.raises(ChannelUnavailable) as caught:
        await texts_of(log)
    assert not isinstance(caught.value, ChannelRefused)


async def test_a_key_that_may_not_read_is_refused():
    key = Key.make(capability='{"*":["publish"]}')
    async with LocalAbly(keys=[key]) as server, opened(server) as log:
        with pytest.raises(ChannelRefused) as caught:
            await texts_of(log)
    assert caught.value.ably_code == 40160


async def test_reading_opens_no_realtime_connection(server, log):
    await texts_of(log)
    await log.ready()
    assert not server.hub.connections


async def test_messages_without_serials_are_read(server, log):
    server.faults.set("omit_serials")
    async with aclosing(log.history(C)) as pages:
        await log.publish(C, [Outgoing("token", "x", "i-1")])
        ((message,),) = [page async for page in pages]
    assert (message.serial, message.version_serial, message.id) == (None, None, "i-1")


ROW = {
    "id": "c:0:0",
    "name": "token",
    "data": "x",
    "clientId": "ann",
    "timestamp": 1_700_000_000_000,
    "serial": "S:000",
    "action": 0,
    "extras": {"headers": {"seq": 0}},
    "version": {"serial": "V:000", "timestamp": 1_700_000_000_001},
}
MESSAGE = ChannelMessage(
    "token",
    "x",
    "c:0:0",
    "S:000",
    1_700_000_000_000,
    "ann",
    {"headers": {"seq": 0}},
    0,
    "V:000",
)


def b64(data):
    return base64.b64encode(data).decode()


def test_every_field_of_a_row_is_converted():
    assert from_rows([ROW]) == [MESSAGE]
    assert isinstance(from_rows([ROW])[0], ChannelMessage)


def test_missing_fields_of_a_row_are_none():
    assert from_rows([{}]) == [ChannelMessage(None, None, None, None, 0)]
    assert from_rows([{"extras": None, "serial": "S", "version": {}}])[0].version_serial == "S"


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        {"id": "x", "timestamp": 5, "serial": "S", "data": '{"a":1}', "encoding": "json"},
        {"id": "x", "timestamp": 5, "action": 5, "data": b64(b"\x00\xff"), "encoding": "base64"},
        {"id": "x", "data": "e30=", "encoding": "json/utf-8/base64", "version": {"serial": "V"}},
        {"id": "x", "data": b"\xff", "name": "error", "extras": None},
    ],
)
def test_a_row_and_the_live_message_of_the_sdk_are_equal(row):
    assert from_live(Message.from_encoded(row)) == from_rows([row])[0]


@pytest.mark.parametrize(
    ("data", "encoding", "meant"),
    [
        ('{"a": [1, "語"]}', "json", {"a": [1, "語"]}),
        (b64("語".encode()), "utf-8/base64", "語"),
        (b64(b'{"a":1}'), "json/utf-8/base64", {"a": 1}),
        (b64(b'{"a":1}'), "json/base64", {"a": 1}),
        (b"\xe8\xaa\x9e", "utf-8", "語"),
        (b'{"a":1}', "json/utf-8", {"a": 1}),
        ("x", "utf-8", "x"),
        (b64(b"\x00\xff"), "base64", b"\x00\xff"),
        (None, "json", None),
        ({"a": 1}, "json", {"a": 1}),
        ("x", "/", "x"),
    ],
)
def test_encodings_are_undone_last_step_first(data, encoding, meant):
    assert decoded(data, encoding) == meant


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("{", "json"),
        ("[" * 100_000, "json"),
        ("not base64!", "base64"),
        ("é", "base64"),
        (b"\xff", "utf-8"),
        (b64(b"\xff"), "utf-8/base64"),
        ("\ud800", "json"),
        (5, "base64"),
        (b64(b"text"), "utf-8/cipher+aes-256-cbc/base64"),
        ("x", "vcdiff"),
    ],
)
def test_undecodable_data_is_never_mistaken_for_text(data, encoding):
    assert decoded(data, encoding) is UNDECODED


@given(st.recursive(st.none() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists))
def test_json_round_trips(value):
    text = json.dumps({"value": value})
    assert decoded(text, "json") == {"value": value}
    assert decoded(b64(text.encode()), "json/utf-8/base64") == {"value": value}


@given(st.text(), st.binary())
def test_text_and_bytes_round_trip(text, data):
    assert decoded(b64(text.encode()), "utf-8/base64") == text
    assert decoded(b64(data), "base64") == data


KEY = AblyKey.parse("app.key:" + "s" * 32)
NOW_S = 1_700_000_000


class Clock:
    now_s = NOW_S

    def __call__(self):
        return self.now_s


async def _ask():
    raise AssertionError("the clock was not questioned")


def claims(token, key=KEY):
    return jwt.decode(token, key.secret, ["HS256"], options={"verify_exp": False})


@pytest.mark.parametrize(
    "text", ["", "app", "app.key", "app.key:", ".key:s", "app.:s", "appkey:s", "a.k:s:t", "a.k/x:s"]
)
def test_an_invalid_key_is_refused_without_repeating_it(text):
    with pytest.raises(NotConfigured, match="ABLY_API_KEY") as caught:
        AblyKey.parse(text)
    assert not text or text not in str(caught.value).replace("appId.keyId:secret", "")


def test_the_repr_of_a_key_omits_the_secret():
    assert KEY.secret not in repr(KEY)
    assert KEY.secret not in f"{KEY}"


async def test_a_token_carries_key_name_capability_and_expiry():
    token = (await Credentials(KEY, None, _ask, Clock()).details()).token
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT", "kid": "app.key"}
    payload = claims(token)
    assert (payload["iat"], payload["exp"]) == (NOW_S, NOW_S + 3600)
    assert json.loads(payload["x-ably-capability"]) == {"[*]*": ["*"]}
    assert payload["x-ably-clientId"] == "*"


async def test_a_token_carries_the_client_id():
    details = await Credentials(KEY, "agent", _ask, Clock()).details()
    assert claims(details.token)["x-ably-clientId"] == details.client_id == "agent"


async def test_a_token_is_due_before_it_expires():
    clock = Clock()
    credentials = Credentials(KEY, None, _ask, clock)
    assert credentials.due
    await credentials.details()
    assert not credentials.due
    clock.now_s += 3000
    assert credentials.due


async def test_after_a_refusal_tokens_are_signed_by_the_servers_clock():
    async def server_ms():
        return (NOW_S + 86_400) * 1000

    credentials = Credentials(KEY, None, server_ms, Clock())
    credentials.invalidate_token()
    assert claims((await credentials.details()).token)["iat"] == NOW_S + 86_400
    assert claims((await credentials.details()).token)["iat"] == NOW_S + 86_400


async def test_without_the_servers_time_the_next_token_asks_for_it_again():
    answers = iter([ChannelUnavailable("away"), (NOW_S + 60) * 1000])

    async def server_ms():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    credentials = Credentials(KEY, None, server_ms, Clock())
    credentials.invalidate_token()
    with pytest.raises(ChannelUnavailable):
        await credentials.details()
    assert claims((await credentials.details()).token)["iat"] == NOW_S + 60


async def test_an_old_short_secret_is_accepted():
    short = AblyKey.parse("app.key:0123456789abcdef012345")
    details = await Credentials(short, None, _ask, Clock()).details()
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        assert claims(details.token, short)["iat"] == NOW_S


def test_a_token_is_sent_in_base64():
    assert base64.b64decode(bearer("a.b.c")["Authorization"].removeprefix("Bearer ")) == b"a.b.c"
