"""What channel messages mean."""

from __future__ import annotations

import pytest

from rehydrate.core.event import CONTENT, STATUSES, TERMINAL, TEXTUAL, Event


def test_every_status_but_one_is_terminal():
    assert TERMINAL | {"in_progress"} == STATUSES
    assert len(TERMINAL) == 5


def test_what_appends_text_is_content():
    assert TEXTUAL < CONTENT
    assert not CONTENT & {"prompt", "start", "stop", "repair", "cancel"}


@pytest.mark.parametrize(
    ("event", "pointer"),
    [
        (Event("repair", "r"), True),
        (Event("repair", "r", text=""), False),
        (Event("repair", "r", value=[]), False),
        (Event("token", "r"), False),
    ],
)
def test_a_repair_without_text_and_parts_points_to_the_store(event, pointer):
    assert event.is_pointer is pointer
