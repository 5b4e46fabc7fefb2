"""Translate output items of the Responses API into parts.

item                                        part
message                                     text, refusal (one per content)
reasoning                                   reasoning (one per summary or content)
function_call, custom_tool_call, mcp_call   tool_call; arguments as they are streamed
code_interpreter_call, shell_call, program  tool_call; the code as arguments
any other `…_call`, mcp_list_tools,
mcp_approval_request                        tool_call; the request as JSON
any `…_output`                              the result of its call
all others (compaction, additional_tools)   none
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.json import dump
from rehydrate.providers.interpreting import call_part, dicts_in, set_result, str_or
from rehydrate.providers.vendor_events import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_RESULT = object()

_STREAMED_ARGS = {
    "function_call": "arguments",
    "mcp_call": "arguments",
    "mcp_approval_request": "arguments",
    "custom_tool_call": "input",
    "code_interpreter_call": "code",
    "program": "code",
}
"""The field that contains the arguments as text, by type of item."""

_REQUEST_FIELDS = ("action", "actions", "queries", "operation", "arguments", "server_label")
"""Fields with the request to one of the other tools, shown as JSON."""

_RESULT_FIELDS = ("results", "outputs", "output", "tools", "error", "revised_prompt", "size")
"""Fields with the result of a vendor's tool, except images (``result``), which are too large."""

_OTHER_CALL_TYPES = frozenset({"mcp_list_tools", "mcp_approval_request", "program"})
_RESULT_ELSEWHERE = frozenset(
    {
        "function_call",
        "custom_tool_call",
        "shell_call",
        "local_shell_call",
        "computer_call",
        "apply_patch_call",
        "tool_search_call",
        "mcp_approval_request",
        "program",
    }
)
"""Types of calls whose result is another item, or is produced by the driver."""


class ItemCall(NamedTuple):
    """The tool call in an item; ``result`` is `NO_RESULT` until there is one.

    ``failed``: the result is an error.
    """

    id: str
    name: str
    kind: str
    args: str
    result: Any
    failed: bool = False


class ItemOutput(NamedTuple):
    """The result in an item that is the output of a call; ``id`` is the call's."""

    id: str
    name: str
    result: Any
    failed: bool


class ItemText(NamedTuple):
    """One text of an item; ``type`` is the type of the part."""

    type: str
    key: str
    text: str


def call_of(item: dict[str, Any], *, index: int) -> ItemCall | None:
    """Return the tool call in *item*, or None if it is not a call."""
    kind = str_or(item.get("type"), "")
    if not kind.endswith("_call") and kind not in _OTHER_CALL_TYPES:
        return None
    call_id = str_or(item.get("call_id"), str_or(item.get("id"), f"call-{index}"))
    name = str_or(item.get("name"), kind.removesuffix("_call"))
    return ItemCall(call_id, name, kind, args_of(item), _result_of(item, kind), _failed(item))


def output_of(item: dict[str, Any], *, index: int) -> ItemOutput | None:
    """Return the result in *item*, or None if it is not the output of a call."""
    kind = str_or(item.get("type"), "")
    if not kind.endswith("_output"):
        return None
    call_id = str_or(item.get("call_id"), str_or(item.get("id"), f"call-{index}"))
    result = next((item[key] for key in ("output", "result", "tools") if key in item), None)
    return ItemOutput(call_id, kind.removesuffix("_output"), shown(result), _failed(item))


def texts_of(item: dict[str, Any], *, index: int, prefix: str) -> Iterator[ItemText]:
    """Yield the texts of *item* in order, with the keys of their parts."""
    kind = item.get("type")
    if kind == "message":
        for at, content in enumerate(dicts_in(item.get("content"))):
            if content.get("type") == "refusal":
                yield ItemText(
                    "refusal", f"{prefix}{index}.{at}", str_or(content.get("refusal"), "")
                )
            else:
                yield ItemText("text", f"{prefix}{index}.{at}", str_or(content.get("text"), ""))
    elif kind == "reasoning":
        for at, content in enumerate(dicts_in(item.get("summary"))):
            yield ItemText("reasoning", f"{prefix}{index}.s{at}", str_or(content.get("text"), ""))
        for at, content in enumerate(dicts_in(item.get("content"))):
            yield ItemText("reasoning", f"{prefix}{index}.{at}", str_or(content.get("text"), ""))


def parts_of(items: list[dict[str, Any]], *, prefix: str) -> list[dict[str, Any]]:
    """Return the parts of complete *items*, equal to those that their deltas produce."""
    parts: list[dict[str, Any]] = []
    calls: dict[str, dict[str, Any]] = {}
    for index, item in enumerate(items):
        parts += [
            {"type": text.type, "text": text.text, "part": text.key}
            for text in texts_of(item, index=index, prefix=prefix)
            if text.text
        ]
        if (call := call_of(item, index=index)) is not None:
            calls[call.id] = call_part(call.id, call.name, call.args)
            parts.append(calls[call.id])
            if call.result is not NO_RESULT:
                set_result(calls[call.id], call.result, failed=call.failed)
        elif (output := output_of(item, index=index)) is not None and output.id in calls:
            set_result(calls[output.id], output.result, failed=output.failed)
    return parts


def args_of(item: dict[str, Any]) -> str:
    """Return the arguments of a call as text: as they are streamed, or the request as JSON."""
    kind = item.get("type")
    if isinstance(kind, str) and kind in _STREAMED_ARGS:
        return str_or(item.get(_STREAMED_ARGS[kind]), "")
    action = item.get("action")
    if kind == "shell_call" and isinstance(action, dict):
        commands = action.get("commands")
        return "\n".join(map(str, commands)) if isinstance(commands, list) else ""
    request = {key: item[key] for key in _REQUEST_FIELDS if item.get(key)}
    return dump(request).decode() if request else ""


def _failed(item: dict[str, Any]) -> bool:
    """Return True if a vendor's tool failed. Failures of the driver's tools are not in the item."""
    return item.get("status") == "failed" or bool(item.get("error"))


def _result_of(item: dict[str, Any], kind: str) -> Any:
    if kind in _RESULT_ELSEWHERE or item.get("status") in ("in_progress", "searching", "calling"):
        return NO_RESULT
    if kind == "mcp_call" and not item.get("output") and not item.get("error"):
        return NO_RESULT
    result = {key: item[key] for key in _RESULT_FIELDS if item.get(key) is not None}
    return shown({"status": str_or(item.get("status"), "completed")} | result)
