"""Every error class has a status, a stable code and a title."""

from __future__ import annotations

import re

import pytest

from rehydrate import errors
from rehydrate.errors import (
    BadParameter,
    BadRequest,
    ChannelRefused,
    Refused,
    RehydrateError,
    Unavailable,
)

PINNED = {
    "bad_parameter",
    "unauthorized",
    "forbidden",
    "not_found",
    "conflict",
    "too_large",
    "too_many",
    "store_unavailable",
    "channel_unavailable",
    "internal",
}
ALL = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, RehydrateError)
]


@pytest.mark.parametrize("kind", ALL)
def test_an_error_has_a_status_a_stable_code_and_a_title(kind):
    assert 400 <= kind.status < 600
    assert kind.code in PINNED
    assert kind.title


@pytest.mark.parametrize("kind", ALL)
def test_the_class_decides_the_status(kind):
    if issubclass(kind, BadRequest | Refused):
        assert kind.status < 500
    if issubclass(kind, Unavailable):
        assert kind.status >= 500 or kind.status == 429
        assert kind.retry_after_s > 0


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind is not RehydrateError])
def test_the_tree_in_the_docstring_names_it(kind):
    drawn = {
        match[1]: match[2]
        for match in re.finditer(r"── (\w+) +.*?(\d{3})? ?(?:\w+)?", errors.__doc__)
    }
    assert kind.__name__ in drawn


def test_errors_keep_the_parameter_and_ablys_code():
    assert BadParameter("limit", "out of range").parameter == "limit"
    assert ChannelRefused(40160, "not permitted").ably_code == 40160
