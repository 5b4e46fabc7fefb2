"""Every type of output item in the package is translated into a part, a result, or nothing."""

from __future__ import annotations

import typing

import pytest

from rehydrate.providers.responses_items import (
    NO_RESULT,
    args_of,
    call_of,
    output_of,
    parts_of,
    texts_of,
)

NEITHER = {"compaction", "additional_tools", "mcp_approval_response"}
TEXTS = {"message", "reasoning"}


def known_items() -> set[str]:
    from openai.types.responses import ResponseOutputItem  # noqa: PLC0415 - only if it is installed

    members = typing.get_args(typing.get_args(ResponseOutputItem)[0])
    kinds = [member.model_fields["type"].annotation for member in members]
    return {name for kind in kinds for name in typing.get_args(kind)}


@pytest.mark.parametrize("kind", sorted(known_items()))
def test_every_item_type_in_the_package_is_translated(kind):
    item = {"type": kind, "id": "i", "call_id": "c", "status": "completed"}
    places = [
        call_of(item, index=0) is not None,
        output_of(item, index=0) is not None,
        kind in TEXTS,
        kind in NEITHER,
    ]
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
    assert call_of(item, index=3).result == result


def test_missing_names_and_ids_have_fallbacks():
    assert call_of({"type": "future_call"}, index=3)[:3] == ("call-3", "future", "future_call")
    assert output_of({"type": "x_output", "output": 1}, index=3) == ("call-3", "x", 1, False)
    assert output_of({"type": "y_output", "id": "i", "result": 2}, index=0) == ("i", "y", 2, False)


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
    assert call_of({**item, "id": "c"}, index=0).failed == failed
    (part,) = parts_of([{**item, "id": "c"}], prefix="")
    assert part["status"] == ("failed" if failed else "completed")


def test_a_failed_output_is_marked_as_failed():
    call = {"type": "apply_patch_call", "call_id": "c"}
    output = {"type": "apply_patch_call_output", "call_id": "c", "status": "failed", "output": "no"}
    (part,) = parts_of([call, output], prefix="")
    assert (part["result"], part["status"]) == ("no", "failed")


def test_texts_have_keys_by_their_indexes():
    message = {"type": "message", "content": [{"text": "a"}, {"type": "refusal", "refusal": "b"}]}
    assert list(texts_of(message, index=2, prefix="1:")) == [
        ("text", "1:2.0", "a"),
        ("refusal", "1:2.1", "b"),
    ]
    reasoning = {"type": "reasoning", "summary": [{"text": "c"}], "content": [{"text": "d"}]}
    assert [text.key for text in texts_of(reasoning, index=0, prefix="")] == ["0.s0", "0.0"]
    assert list(texts_of({"type": "message", "content": None}, index=0, prefix="")) == []


def test_empty_parts_are_left_out_and_outputs_join_their_calls():
    parts = parts_of(
        [
            {"type": "message", "content": [{"text": ""}, {"text": "x"}]},
            {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}},
            {"type": "shell_call_output", "call_id": "c", "output": [1]},
            {"type": "shell_call_output", "call_id": "of nobody", "output": [2]},
        ],
        prefix="",
    )
    assert [(part["type"], part.get("result")) for part in parts] == [
        ("text", None),
        ("tool_call", [1]),
    ]
