"""Every type of output item in the package is translated into a part, a result, or nothing."""

from __future__ import annotations

import typing

import pytest

from rehydrate.providers.responses_items import args_of, final_of

NO_RESULT = object()

NEITHER = {"compaction", "additional_tools", "mcp_approval_response"}
TEXTS = {"message", "reasoning"}


def known_items() -> set[str]:
    from openai.types.responses import ResponseOutputItem  # noqa: PLC0415 - only if it is installed

    members = typing.get_args(typing.get_args(ResponseOutputItem)[0])
    kinds = [member.model_fields["type"].annotation for member in members]
    return {name for kind in kinds for name in typing.get_args(kind)}


@pytest.mark.parametrize("kind", sorted(known_items()))
def test_every_item_type_in_the_package_is_translated(kind):
    final = final_of({"type": kind, "id": "i", "call_id": "c", "status": "completed"}, 0)
    places = [final.call is not None, final.answers is not None, kind in TEXTS, kind in NEITHER]
    assert places.count(True) == 1, kind


@pytest.mark.parametrize(
    ("item", "args"),
    [
        ({"type": "function_call", "arguments": "{}"}, "{}"),
        ({"type": "custom_tool_call", "input": "x"}, "x"),
        ({"type": "code_interpreter_call", "code": None}, ""),
        ({"type": "shell_call", "action": {"commands": ["a", "b"]}}, "a\nb"),
        ({"type": "shell_call", "action": None}, ""),
        ({"type": "computer_call", "action": {"type": "click"}}, '{"action":{"type":"click"}}'),
        ({"type": "apply_patch_call", "operation": {"path": "a"}}, '{"operation":{"path":"a"}}'),
        ({"type": "tool_search_call", "arguments": {"q": 1}}, '{"arguments":{"q":1}}'),
        ({"type": "mcp_approval_request", "arguments": "{}"}, "{}"),
    ],
)
def test_arguments_are_the_streamed_text_or_the_request_as_json(item, args):
    assert args_of(item) == args


@pytest.mark.parametrize(
    ("item", "result"),
    [
        ({"type": "function_call", "status": "completed"}, NO_RESULT),
        ({"type": "web_search_call", "status": "searching"}, NO_RESULT),
        ({"type": "web_search_call", "status": "failed"}, {"status": "failed"}),
        ({"type": "mcp_call", "status": "completed"}, NO_RESULT),
        ({"type": "mcp_call", "output": "x"}, {"status": "completed", "output": "x"}),
        ({"type": "image_generation_call", "result": "aGk="}, {"status": "completed"}),
    ],
)
def test_a_result_contains_the_output_of_the_vendors_tool(item, result):
    call = final_of(item, 3).call
    assert (call.has_result, call.result) == (
        result is not NO_RESULT,
        None if result is NO_RESULT else result,
    )


def test_missing_names_and_ids_are_empty_or_the_type():
    assert final_of({"type": "future_call"}, 3).call[:2] == ("", "future")
    assert final_of({"type": "x_output", "output": 1}, 3).answers[:1] == ("",)
    assert final_of({"type": "y_output", "id": "i", "result": 2}, 0).answers.result == 2
    assert final_of({"id": "i"}, 0) is None


@pytest.mark.parametrize(
    ("item", "failed"),
    [
        ({"type": "mcp_call", "output": "x", "error": None}, False),
        ({"type": "mcp_call", "error": {"message": "down"}}, True),
        ({"type": "web_search_call", "status": "failed"}, True),
        ({"type": "web_search_call", "status": "completed"}, False),
    ],
)
def test_a_failed_tool_of_the_vendor_is_marked_as_failed(item, failed):
    assert final_of({**item, "id": "c"}, 0).call.failed == failed


def test_a_failed_output_is_marked_as_failed():
    output = {"type": "apply_patch_call_output", "call_id": "c", "status": "failed", "output": "no"}
    assert final_of(output, 0).answers[-2:] == ("no", True)


def test_texts_have_places_by_their_indexes():
    message = {"type": "message", "content": [{"text": "a"}, {"type": "refusal", "refusal": "b"}]}
    assert [text[:3] for text in final_of(message, 2).texts] == [
        ("text", "0", "a"),
        ("refusal", "1", "b"),
    ]
    reasoning = {"type": "reasoning", "summary": [{"text": "c"}], "content": [{"text": "d"}]}
    assert [text.place for text in final_of(reasoning, 0).texts] == ["s0", "0"]
    assert final_of({"type": "message", "content": None}, 0).texts == ()
