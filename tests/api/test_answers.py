from __future__ import annotations

import pytest
from starlette.requests import Request

from rehydrate.api import answers


def asking(if_none_match=None):
    headers = [] if if_none_match is None else [(b"if-none-match", if_none_match.encode())]
    return Request({"type": "http", "headers": headers})


def test_a_live_answer_must_not_be_cached():
    answer = answers.live(b"{}", 201)
    assert (answer.status_code, answer.body, answer.media_type) == (201, b"{}", "application/json")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["vary"] == "Authorization"
    assert "etag" not in answer.headers


def test_a_settled_answer_is_revalidated_by_its_etag():
    first = answers.settled(asking(), b"{}")
    etag = first.headers["etag"]
    assert first.status_code == 200
    assert first.headers["cache-control"] == "private, no-cache"
    again = answers.settled(asking(etag), b"{}")
    assert (again.status_code, again.body, again.headers["etag"]) == (304, b"", etag)
    assert again.headers["vary"] == "Authorization"
    assert again.headers["cache-control"] == "private, no-cache"


def test_different_bytes_have_different_etags():
    etag = answers.settled(asking(), b'{"text":"a"}').headers["etag"]
    changed = answers.settled(asking(etag), b'{"text":"b"}')
    assert changed.status_code == 200
    assert changed.body == b'{"text":"b"}'
    assert changed.headers["etag"] != etag


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("*", 304),
        ("W/{}", 304),
        ('"x", {}', 304),
        ('"x",W/{} , "y"', 304),
        ('"x"', 200),
        ("", 200),
    ],
)
def test_an_etag_is_found_in_a_list(header, status):
    etag = answers.settled(asking(), b"{}").headers["etag"]
    assert answers.settled(asking(header.format(etag)), b"{}").status_code == status
