"""Output items of the Responses API: what each type of them is as a part.

item                                        part
message                                     text, refusal (one a content)
reasoning                                   reasoning (one a summary or content)
function_call, custom_tool_call, mcp_call   tool_call; arguments as they are streamed
code_interpreter_call, shell_call, program  tool_call; the code as arguments
any other `…_call`, mcp_list_tools,
mcp_approval_request                        tool_call; what was asked, as JSON
any `…_output`                              the result of its call
all others (compaction, additional_tools)   none
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.json import dump
from rehydrate.providers.interpreting import call_part, dicts_in, settle, str_or
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
"""Which field of an item its arguments are, as text."""

_ASKED = ("action", "actions", "queries", "operation", "arguments", "server_label")
"""Fields that say, as JSON, what was asked of the other tools."""

_ANSWERED = ("results", "outputs", "output", "tools", "error", "revised_prompt", "size")
"""Fields that say what a tool of the vendor answered; pictures (``result``) are too large."""

_NOT_ALONE = frozenset({"mcp_list_tools", "mcp_approval_request", "program"})
_ANSWERED_ELSEWHERE = frozenset(
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
"""Calls whose result is another item, or ours to give."""


class ItemCall(NamedTuple):
    """A call as its item tells; ``result`` is `NO_RESULT` as long as there is none.

    ``failed``: it says why there is none.
    """

    id: str
    name: str
    kind: str
    args: str
    result: Any
    failed: bool = False


class ItemOutput(NamedTuple):
    """What an item tells that is the output of a call, by the call's id."""

    id: str
    name: str
    result: Any
    failed: bool


class ItemText(NamedTuple):
    """One text of an item; ``type`` is that of the part."""

    type: str
    key: str
    text: str


def call_of(item: dict[str, Any], *, index: int) -> ItemCall | None:
    """The call that *item* is, with all that it says of it; None if it is none."""
    kind = str_or(item.get("type"), "")
    if not kind.endswith("_call") and kind not in _NOT_ALONE:
        return None
    call_id = str_or(item.get("call_id"), str_or(item.get("id"), f"call-{index}"))
    name = str_or(item.get("name"), kind.removesuffix("_call"))
    return ItemCall(call_id, name, kind, args_of(item), _result_of(item, kind), _failed(item))


def output_of(item: dict[str, Any], *, index: int) -> ItemOutput | None:
    """What *item* tells, if it is the output of a call; None if it is none."""
    kind = str_or(item.get("type"), "")
    if not kind.endswith("_output"):
        return None
    call_id = str_or(item.get("call_id"), str_or(item.get("id"), f"call-{index}"))
    result = next((item[key] for key in ("output", "result", "tools") if key in item), None)
    return ItemOutput(call_id, kind.removesuffix("_output"), shown(result), _failed(item))


def texts_of(item: dict[str, Any], *, index: int, prefix: str) -> Iterator[ItemText]:
    """The texts of *item*, in order, with the keys of their parts."""
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
    """The parts that *items* add up to, just as their deltas would."""
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
                settle(calls[call.id], call.result, failed=call.failed)
        elif (output := output_of(item, index=index)) is not None and output.id in calls:
            settle(calls[output.id], output.result, failed=output.failed)
    return parts


def args_of(item: dict[str, Any]) -> str:
    """The arguments of a call as text: as they were streamed, or what was asked, as JSON."""
    kind = item.get("type")
    if isinstance(kind, str) and kind in _STREAMED_ARGS:
        return str_or(item.get(_STREAMED_ARGS[kind]), "")
    action = item.get("action")
    if kind == "shell_call" and isinstance(action, dict):
        commands = action.get("commands")
        return "\n".join(map(str, commands)) if isinstance(commands, list) else ""
    asked = {key: item[key] for key in _ASKED if item.get(key)}
    return dump(asked).decode() if asked else ""


def _failed(item: dict[str, Any]) -> bool:
    """Whether the vendor's tool did not do what it was asked; ours are told by the driver."""
    return item.get("status") == "failed" or bool(item.get("error"))


def _result_of(item: dict[str, Any], kind: str) -> Any:
    if kind in _ANSWERED_ELSEWHERE or item.get("status") in ("in_progress", "searching", "calling"):
        return NO_RESULT
    if kind == "mcp_call" and not item.get("output") and not item.get("error"):
        return NO_RESULT
    answered = {key: item[key] for key in _ANSWERED if item.get(key) is not None}
    return shown({"status": str_or(item.get("status"), "completed")} | answered)
