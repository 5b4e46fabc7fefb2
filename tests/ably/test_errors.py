from __future__ import annotations

import pytest
from ably.util.exceptions import AblyException

from rehydrate.ably.errors import (
    channel_error,
    describe,
    error_of,
    is_token_refusal,
    is_transient,
    is_unauthorized,
)
from rehydrate.errors import ChannelRefused, ChannelUnavailable


@pytest.mark.parametrize(
    ("status", "code"), [(400, 40009), (401, 40160), (404, 40400), (400, 90001)]
)
def test_a_refusal_keeps_its_code(status, code):
    refused = channel_error(AblyException("no", status, code), "trying")
    assert isinstance(refused, ChannelRefused)
    assert refused.ably_code == code
    assert str(refused) == f"trying: no ({code})"


@pytest.mark.parametrize(
    "error",
    [
        AblyException("busy", 503, 50003),
        AblyException("slow down", 429, 42910),
        AblyException("late", 408, 90007),
        OSError("gone"),
        None,
    ],
)
def test_a_transient_error_is_not_a_refusal(error):
    assert type(channel_error(error, "trying")) is ChannelUnavailable


def test_an_address_with_a_token_is_left_out():
    error = AblyException("wss://ably?accessToken=secret isn't a valid URI", 400, 40000)
    assert describe(error) == "(40000)"
    assert "secret" not in str(channel_error(error, "connecting"))
    assert describe(ValueError("secret")) == "ValueError"
    assert describe(None) == "no reason given"


@pytest.mark.parametrize(
    ("items", "header", "meant"),
    [
        ([{"error": {"code": 40160, "message": "denied"}}], None, (40160, "denied")),
        ([{"error": {"message": "denied"}}], "40160", (40160, "denied")),
        ([], "40160", (40160, "no reason given")),
        ([{"error": "text"}], "x", (0, "no reason given")),
        (["<html>"], None, (0, "no reason given")),
    ],
)
def test_code_and_message_are_read_from_body_or_header(items, header, meant):
    assert error_of(items, header) == meant


def test_codes_are_classified_as_the_specification_defines():
    assert [c for c in (40139, 40140, 40142, 40149, 40150) if is_token_refusal(c)] == [
        40140,
        40142,
        40149,
    ]
    assert all(is_transient(status) for status in (408, 429, 500, 503, 599))
    assert not any(is_transient(status) for status in (400, 401, 403, 404))
    assert all(is_unauthorized(code) for code in (40100, 40101, 40142, 40171, 40400, 40003))
    assert not any(is_unauthorized(code) for code in (40160, 40300, 42910, 40000))
