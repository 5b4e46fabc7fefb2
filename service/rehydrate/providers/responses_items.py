"""Read whole output items of the Responses API.

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

from typing import TYPE_CHECKING, Any

from rehydrate.core.json import dump
from rehydrate.providers.answer_items import Final, FinalCall, FinalText
from rehydrate.providers.interpreting import dicts_in, str_or
from rehydrate.providers.vendor_events import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def final_of(item: dict[str, Any], index: int | None) -> Final | None:
    """Return a whole item, or None if it has no type."""
    kind = str_or(item.get("type"), "")
    if not kind:
        return None
    id_, texts = str_or(item.get("id"), ""), tuple(_texts_of(item, kind))
    return Final(kind, id_, index, texts, _call_of(item, kind), _output_of(item, kind), item)


def _call_of(item: dict[str, Any], kind: str) -> FinalCall | None:
    if not kind.endswith("_call") and kind not in _OTHER_CALL_TYPES:
        return None
    id_ = str_or(item.get("call_id"), "")
    name = str_or(item.get("name"), kind.removesuffix("_call"))
    call = FinalCall(id_, name, args_of(item), failed=_failed(item))
    if kind in _RESULT_ELSEWHERE or item.get("status") in ("in_progress", "searching", "calling"):
        return call
    if kind == "mcp_call" and not item.get("output") and not item.get("error"):
        return call
    result = {key: item[key] for key in _RESULT_FIELDS if item.get(key) is not None}
    result = {"status": str_or(item.get("status"), "completed")} | result
    return call._replace(has_result=True, result=shown(result))


def _output_of(item: dict[str, Any], kind: str) -> FinalCall | None:
    """Return the result in an item that is the output of a call; its id is the call's."""
    if not kind.endswith("_output"):
        return None
    call_id = str_or(item.get("call_id"), str_or(item.get("id"), ""))
    result = next((item[key] for key in ("output", "result", "tools") if key in item), None)
    return FinalCall(call_id, kind, "", True, shown(result), _failed(item))


def _texts_of(item: dict[str, Any], kind: str) -> Iterator[FinalText]:
    """Yield the texts of *item* in order."""
    if kind == "reasoning":
        for at, content in enumerate(dicts_in(item.get("summary"))):
            yield FinalText("reasoning", f"s{at}", str_or(content.get("text"), ""))
    if kind not in ("message", "reasoning"):
        return
    for at, content in enumerate(dicts_in(item.get("content"))):
        if content.get("type") == "refusal":
            yield FinalText("refusal", str(at), str_or(content.get("refusal"), ""))
        else:
            type_ = "text" if kind == "message" else kind
            noted = dicts_in(content.get("annotations"))
            yield FinalText(type_, str(at), str_or(content.get("text"), ""), noted)


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
