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
