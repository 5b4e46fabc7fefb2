from __future__ import annotations

import pytest
from ably.util.exceptions import AblyException

from rehydrate.ably.errors import (
    as_ours,
    described,
    error_of,
    is_token_refusal,
    may_pass,
    means_unauthorized,
)
from rehydrate.errors import ChannelRefused, ChannelUnavailable


@pytest.mark.parametrize(
    ("status", "code"), [(400, 40009), (401, 40160), (404, 40400), (400, 90001)]
)
def test_a_no_is_a_refusal_with_its_code(status, code):
    refused = as_ours(AblyException("no", status, code), "trying")
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
def test_what_may_pass_is_no_refusal(error):
    assert type(as_ours(error, "trying")) is ChannelUnavailable


def test_an_address_with_a_token_is_not_repeated():
    error = AblyException("wss://ably?accessToken=secret isn't a valid URI", 400, 40000)
    assert described(error) == "(40000)"
    assert "secret" not in str(as_ours(error, "connecting"))
    assert described(ValueError("secret")) == "ValueError"
    assert described(None) == "no reason given"


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
def test_code_and_message_are_found_where_they_are(items, header, meant):
    assert error_of(items, header) == meant


def test_codes_mean_what_the_specification_says():
    assert [c for c in (40139, 40140, 40142, 40149, 40150) if is_token_refusal(c)] == [
        40140,
        40142,
        40149,
    ]
    assert all(may_pass(status) for status in (408, 429, 500, 503, 599))
    assert not any(may_pass(status) for status in (400, 401, 403, 404))
    assert all(means_unauthorized(code) for code in (40100, 40101, 40142, 40171, 40400, 40003))
    assert not any(means_unauthorized(code) for code in (40160, 40300, 42910, 40000))
