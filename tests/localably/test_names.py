"""D:channels, D:channels/options: names and qualifiers."""

from __future__ import annotations

import pytest

from localably import names
from localably.errors import RefusedError


@pytest.mark.parametrize(
    "name", ["", ":hell", "a:*", "*", "a\nb", "[bad]a", "[?rewind=1", "[?rewind=1]", "x" * 3000]
)
def test_40010_an_invalid_name_is_refused(name):
    with pytest.raises(RefusedError) as refused:
        names.parse(name)
    assert refused.value.code == 40010


@pytest.mark.parametrize(
    ("name", "base", "params", "namespace"),
    [
        ("room", "room", {}, "room"),
        ("ai:conv 1/2", "ai:conv 1/2", {}, "ai"),
        ("[?rewind=1]room", "room", {"rewind": "1"}, "room"),
        ("[?rewind=2m&rewindLimit=5]a:b", "a:b", {"rewind": "2m", "rewindLimit": "5"}, "a"),
        ("[meta]log", "[meta]log", {}, "[meta]log"),
        ("日本語", "日本語", {}, "日本語"),
    ],
)
def test_a_name_is_parsed_into_its_parts(name, base, params, namespace):
    parsed = names.parse(name)
    assert (parsed.wire, parsed.base, parsed.params) == (name, base, params)
    assert parsed.namespace == namespace


async def test_invalid_names_are_refused_over_realtime_and_rest(js):
    seen = await js("refusals")
    assert seen["attach"] == {"code": 40010, "statusCode": 400}
    assert seen["empty"]["code"] == 40010
    assert seen["still"] == "connected"
