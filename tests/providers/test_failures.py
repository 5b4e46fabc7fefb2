"""The mapping from exceptions of a vendor's package to failures of the response."""

from __future__ import annotations

import json

import openai
import pytest

from rehydrate.errors import RehydrateError
from rehydrate.providers.failures import (
    ERROR_CHARACTERS_MAX,
    ProviderError,
    StreamBroken,
    StreamUnreadable,
    VendorFailed,
    failure_of,
    vendor_failure,
)


def raised(call):
    try:
        call()
    except Exception as error:  # noqa: BLE001 - the test is about what it raises
        return error
    raise AssertionError("it raised nothing")


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (raised(lambda: json.loads("{")), StreamUnreadable, "malformed_event: Expecting"),
        (raised(b"\xff".decode), StreamUnreadable, "malformed_event: 'utf-8'"),
        (TimeoutError(), StreamBroken, "stalled: no event before the idle timeout"),
        (openai.APITimeoutError(request=None), StreamBroken, "stalled"),
        (openai.APIConnectionError(request=None), StreamBroken, "connection_lost: APIConnection"),
        (ConnectionResetError(), StreamBroken, "connection_lost: ConnectionResetError"),
        (
            openai.APIError("no", None, body={"code": "server_error", "message": "Boom"}),
            VendorFailed,
            "server_error: Boom",
        ),
        (openai.APIError("no", None, body=None), VendorFailed, "APIError"),
        (KeyError("secret"), ProviderError, "source_failed: KeyError"),
    ],
)
def test_exceptions_are_mapped_to_failures(error, kind, told):
    failure = failure_of(error)
    assert type(failure) is kind
    assert failure.public_detail.startswith(told)
    assert "secret" not in failure.public_detail
    assert failure.__cause__ is error


def test_a_provider_error_is_not_mapped():
    failure = StreamBroken("cut")
    assert failure_of(failure) is failure
    assert isinstance(failure, RehydrateError)
    assert (failure.ending, failure.code, str(failure)) == ("incomplete", "cut", "cut")


def test_the_published_detail_is_limited_in_length():
    assert (
        len(vendor_failure({"code": "x", "message": "y" * 5000}).public_detail)
        == ERROR_CHARACTERS_MAX
    )


@pytest.mark.parametrize("error", [None, "x", {}, {"code": 5, "message": []}])
def test_an_empty_error_object_is_a_failure(error):
    assert vendor_failure(error).public_detail == "vendor_failed"
