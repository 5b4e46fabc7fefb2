"""Matching by the rules of Ably's documentation on capabilities."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localably.capability import ServerCapability
from rehydrate.core.capability import Capability


@pytest.mark.parametrize(
    ("resource", "channel"),
    [
        ("*", "anything"),
        ("*", "ai:conv:42"),
        ("ai:conv-42", "ai:conv-42"),
        ("ai:*", "ai:conv-42"),
        ("ai:*", "ai:conv:42:deep"),
        ("ai:*:42", "ai:conv:42"),
        ("*:42", "ai:42"),
        ("ai:*:*", "ai:conv:42:deep"),
        ("foo*", "foo*"),
        ("[*]*", "ai:conv-42"),
        ("[*]*", "[meta]log"),
        ("[*]ai:*", "ai:conv-42"),
        ("[meta]*", "[meta]log"),
        ("[queue]*", "[queue]app-jobs"),
        ("[?rewind=1]ai:x", "ai:x"),
        ("ai:x", "[?rewind=1]ai:x"),
        ("ai:日本語", "ai:日本語"),
        ("ai: ", "ai: "),
    ],
)
def test_a_resource_covers_the_channel(resource, channel):
    assert Capability({resource: ["history"]}).granted(channel) == {"history"}


@pytest.mark.parametrize(
    ("resource", "channel"),
    [
        ("ai:conv-42", "ai:conv-4"),
        ("ai:conv-42", "ai:conv-42:deep"),
        ("ai:*", "ai"),
        ("ai:*", "other:conv-42"),
        ("ai:*:42", "ai:a:b:42"),
        ("ai:*:42", "ai:42"),
        ("foo*", "foobar"),
        ("foo*", "foo"),
        ("ai:conv*", "ai:conv-42"),
        ("*", "[meta]log"),
        ("*", "[queue]app-jobs"),
        ("[meta]*", "ai:conv-42"),
        ("[queue]*", "[meta]log"),
        ("ai:x", "[meta]ai:x"),
        ("AI:x", "ai:x"),
        ("", "ai:x"),
    ],
)
def test_a_resource_does_not_cover_the_channel(resource, channel):
    assert not Capability({resource: ["history", "*"]}).granted(channel)


def test_only_the_operations_asked_for_are_granted():
    capability = Capability({"ai:*": ["publish", "subscribe"], "ai:x": ["history"], "b": ["*"]})
    assert capability.granted("ai:x") == {"history", "subscribe"}
    assert capability.granted("ai:y") == {"subscribe"}
    assert capability.granted("b") == {"history", "subscribe"}
    assert not Capability({"ai:*": ["publish", "presence"]}).granted("ai:x")
    assert capability.granted("ai:y", frozenset({"publish", "stats"})) == {"publish"}


def test_the_same_resource_written_in_two_ways_grants_both():
    capability = Capability({"ai:x": ["history"], "[?delta=vcdiff]ai:x": ["subscribe"]})
    assert capability.granted("ai:x") == {"history", "subscribe"}


@pytest.mark.parametrize(
    "text",
    ["", "nope", "[]", "null", '"*"', '{"*":"history"}', '{"*":[1]}', '{"*":null}', "[" * 100_000],
)
def test_text_that_is_not_a_capability_is_refused(text):
    with pytest.raises(ValueError, match=r".*"):
        Capability.parse(text)


_segments = st.lists(st.sampled_from(["a", "b", "*", "a*", ""]), min_size=1, max_size=4)
_qualifier = st.sampled_from(["", "", "", "[meta]", "[queue]", "[*]", "[?rewind=1]"])


@given(
    resources=st.dictionaries(
        st.builds(lambda q, s: q + ":".join(s), _qualifier, _segments),
        st.just(["*"])
        | st.lists(st.sampled_from(["history", "subscribe", "publish"]), min_size=1, unique=True),
        max_size=4,
    ),
    channel=st.builds(
        lambda q, s: q + ":".join(s),
        st.sampled_from(["", "", "[meta]", "[queue]"]),
        st.lists(st.sampled_from(["a", "b", "a*", ""]), min_size=1, max_size=4),
    ),
)
def test_the_reader_and_the_channel_server_grant_the_same(resources, channel):
    """Two independent implementations grant the same operations."""
    text = json.dumps(resources)
    ours, theirs = Capability.parse(text), ServerCapability.parse(text)
    servers = {each for each in ("history", "subscribe") if theirs.allows(channel, each)}
    assert ours.granted(channel) == servers
