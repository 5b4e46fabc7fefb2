"""The vendor's response or thread from which the next prompt continues."""

from __future__ import annotations

import pytest

from rehydrate.providers.vendor_ids import VendorIds, previous_response_id, thread_id


def answered(status="completed", error=None, **ids):
    return {"status": status, "error": error, "metadata": {"k": 1, "openai": ids}}


PLAIN = {"status": "completed", "text": "of nobody's"}
LOST = "previous_response_not_found: Previous response with id 'resp_1' not found."
NO_THREAD = "invalid_request_error: No thread found with id 'thread_1'."


@pytest.mark.parametrize(
    ("messages", "previous"),
    [
        ([], None),
        ([PLAIN, {"metadata": 5}, {"metadata": {"openai": []}}, answered(response_ids=[])], None),
        ([answered(response_ids=["resp_1", "resp_2"])], "resp_2"),
        ([PLAIN, answered(response_ids=["b"]), answered(response_ids=["a"])], "b"),
        ([answered("failed", response_ids=["b"]), answered(response_ids=["a"])], "a"),
        ([answered("cancelled", response_ids=["b"]), answered(response_ids=["a"])], "a"),
        ([answered("failed", LOST), answered(response_ids=["a"])], None),
        ([answered(response_ids=["c"]), answered("failed", LOST)], "c"),
        ([answered(thread_id="t")], None),
    ],
)
def test_the_next_response_continues_from_the_newest_completed_answer(messages, previous):
    assert previous_response_id(messages) == previous


@pytest.mark.parametrize(
    ("messages", "thread"),
    [
        ([], None),
        ([PLAIN, answered(response_ids=["a"])], None),
        ([answered("failed", thread_id="t2"), answered(thread_id="t1")], "t2"),
        ([answered("failed", NO_THREAD, thread_id="t1"), answered(thread_id="t1")], None),
    ],
)
def test_the_next_run_continues_in_the_newest_thread(messages, thread):
    assert thread_id(messages) == thread


def test_ids_are_added_to_the_other_metadata():
    metadata = []

    class Response:
        annotate = staticmethod(metadata.append)

    ids = VendorIds(Response(), {"tenant": 7})
    for what, id_ in (("response", "a"), ("response", "b"), ("thread", "t"), ("run", "r")):
        ids(what, id_)
    assert metadata[0] == {"tenant": 7, "openai": {"response_ids": ["a"]}}
    assert metadata[-1] == {
        "tenant": 7,
        "openai": {"response_ids": ["a", "b"], "thread_id": "t", "run_id": "r"},
    }
    outcome = ids.outcome("cancelled")
    assert (outcome.response_ids, outcome.thread_id, outcome.run_id) == (("a", "b"), "t", "r")
