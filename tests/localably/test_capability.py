"""D:auth/capabilities: the channels that a resource covers, and the intersection of capabilities."""

from __future__ import annotations

import pytest

from localably.capability import ServerCapability, covers
from localably.errors import RefusedError


@pytest.mark.parametrize(
    ("resource", "channel", "covered"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("*", "a", True),
        ("*", "a:b:c", True),
        ("*", "[meta]a", False),
        ("[*]*", "[meta]a", True),
        ("[*]*", "a", True),
        ("[meta]*", "[meta]a", True),
        ("[meta]*", "a", False),
        ("a:*", "a:b", True),
        ("a:*", "a:b:c", True),
        ("a:*", "a", False),
        ("a:*:c", "a:b:c", True),
        ("a:*:c", "a:b:d", False),
        ("a:*:c", "a:b:b:c", False),
        ("foo*", "foobar", False),
        ("foo*", "foo*", True),
    ],
)
def test_a_resource_covers_by_segments(resource, channel, covered):
    assert covers(resource, channel) is covered


def meet(key, asked):
    return str(ServerCapability.parse(key).meet(ServerCapability.parse(asked)))


def test_a_token_has_the_intersection_with_its_key():
    key = '{"channel2":["publish","subscribe"],"channel6":["*"],"ns:*":["subscribe"]}'
    assert meet(key, '{"channel2":["presence","subscribe"]}') == '{"channel2":["subscribe"]}'
    assert meet(key, '{"channel2":["*"]}') == '{"channel2":["publish","subscribe"]}'
    assert meet(key, '{"channel6":["publish"]}') == '{"channel6":["publish"]}'
    assert meet(key, '{"ns:x":["*"],"ns:y":["publish"]}') == '{"ns:x":["subscribe"]}'
    assert meet(key, '{"*":["subscribe"]}') == (
        '{"channel2":["subscribe"],"channel6":["subscribe"],"ns:*":["subscribe"]}'
    )
    assert not ServerCapability.parse(key).meet(ServerCapability.parse('{"other":["*"]}'))


@pytest.mark.parametrize(
    "text", ["", "[]", "x", '{"a":[]}', '{"a":["publish_"]}', '{"a":["*","publish"]}', '{"a":[1]}']
)
def test_an_invalid_capability_is_refused(text):
    with pytest.raises(RefusedError) as refused:
        ServerCapability.parse(text)
    assert refused.value.code == 40000


async def test_tokens_are_granted_no_more_than_their_key(js):
    seen = await js("capability")
    assert seen["subset"] == {"a:b": ["subscribe"]}
    assert seen["default"] == {"[*]*": ["*"]}
    wrong = {name: seen[name]["code"] for name in ("unknown", "mixed", "none")}
    assert wrong == {"unknown": 40000, "mixed": 40000, "none": 40000}
    assert seen["nonce"] == {"code": 40105, "statusCode": 401}
    assert seen["time"] == {"code": 40104, "statusCode": 401}
    assert seen["ttl"]["statusCode"] == 400
