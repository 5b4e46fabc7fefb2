"""A row whose content names another message than its key is reported once, and recording continues."""

from __future__ import annotations

import logging

from conftest import connected
from rehydrate.postgres import changed_rows


async def test_a_row_with_the_content_of_another_message_is_reported_once_and_recorded(
    chat, module_database, caplog
):
    caplog.set_level(logging.WARNING)
    await chat.publish_response("a", "xyz")
    await chat.catch_up()
    renamed = "UPDATE messages SET id = 'renamed' WHERE conversation_id = $1"
    async with connected(module_database) as connection:
        await connection.execute(renamed, chat.id)
    await chat.publish_message("response-complete", {"text": "whole"}, responseId="renamed", seq=9)
    for _ in range(3):
        recorded = await chat.catch_up()
        assert recorded.moved
        assert not recorded.counts["unrecordable"]
    reports = [r for r in caplog.records if r.name == changed_rows.__name__]
    assert [r.getMessage()[:52] for r in reports] == [
        "the row of message 'renamed' contains message 'a': a"
    ]
    assert len(caplog.records) == 1
    shown = await chat.stored()
    assert shown["renamed"] == ("whole", "completed")


def test_a_body_with_the_id_of_its_row_is_not_changed():
    body = {"id": "a", "exact": True}
    assert changed_rows.with_id(body, "a") is body
