from __future__ import annotations

import pytest

from localably.errors import FrameError, RefusedError


@pytest.mark.parametrize(
    ("code", "status"), [(40160, 401), (42911, 429), (50003, 500), (80008, 400), (93002, 400)]
)
def test_the_status_is_contained_in_the_code(code, status):
    assert RefusedError(code, "x").as_wire() == {
        "code": code,
        "statusCode": status,
        "message": "x",
        "href": f"https://help.ably.io/error/{code}",
    }


def test_a_frame_error_is_a_bad_request():
    assert FrameError("x").as_wire()["code"] == 40000
