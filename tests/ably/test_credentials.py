from __future__ import annotations

import base64
import json

import jwt
import pytest

from rehydrate.ably.credentials import AblyKey, Credentials, bearer
from rehydrate.errors import ChannelUnavailable, NotConfigured

KEY = AblyKey.parse("app.key:" + "s" * 32)
NOW_S = 1_700_000_000


class Clock:
    now_s = NOW_S

    def __call__(self):
        return self.now_s


async def _ask():
    raise AssertionError("nobody doubts the clock")


def claims(token, key=KEY):
    return jwt.decode(token, key.secret, ["HS256"], options={"verify_exp": False})


@pytest.mark.parametrize(
    "text", ["", "app", "app.key", "app.key:", ".key:s", "app.:s", "appkey:s", "a.k:s:t", "a.k/x:s"]
)
def test_what_is_no_key_is_refused_and_not_repeated(text):
    with pytest.raises(NotConfigured, match="ABLY_API_KEY") as caught:
        AblyKey.parse(text)
    assert not text or text not in str(caught.value).replace("appId.keyId:secret", "")


def test_the_secret_is_not_in_what_a_key_prints():
    assert KEY.secret not in repr(KEY)
    assert KEY.secret not in f"{KEY}"


async def test_a_token_says_which_key_what_for_and_until_when():
    token = (await Credentials(KEY, None, _ask, Clock()).details()).token
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT", "kid": "app.key"}
    said = claims(token)
    assert (said["iat"], said["exp"]) == (NOW_S, NOW_S + 3600)
    assert json.loads(said["x-ably-capability"]) == {"[*]*": ["*"]}
    assert said["x-ably-clientId"] == "*"


async def test_a_token_says_who_we_are():
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


async def test_after_a_refusal_it_signs_by_the_clock_of_the_server():
    async def server_ms():
        return (NOW_S + 86_400) * 1000

    credentials = Credentials(KEY, None, server_ms, Clock())
    credentials.doubt()
    assert claims((await credentials.details()).token)["iat"] == NOW_S + 86_400
    assert claims((await credentials.details()).token)["iat"] == NOW_S + 86_400


async def test_where_nobody_tells_the_time_the_doubt_stays():
    answers = iter([ChannelUnavailable("away"), (NOW_S + 60) * 1000])

    async def server_ms():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    credentials = Credentials(KEY, None, server_ms, Clock())
    credentials.doubt()
    with pytest.raises(ChannelUnavailable):
        await credentials.details()
    assert claims((await credentials.details()).token)["iat"] == NOW_S + 60


async def test_an_old_short_secret_is_a_secret():
    short = AblyKey.parse("app.key:0123456789abcdef012345")
    details = await Credentials(short, None, _ask, Clock()).details()
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        assert claims(details.token, short)["iat"] == NOW_S


def test_a_token_is_shown_in_base64():
    assert base64.b64decode(bearer("a.b.c")["Authorization"].removeprefix("Bearer ")) == b"a.b.c"
