"""Run the tool loop of the Chat Completions API: stream, call the tools, send everything again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.errors import BadParameter
from rehydrate.providers.openai_chat import ChatStream
from rehydrate.providers.tool_loop import TURNS_MAX, DriverOutcome, run_tool_loop
from rehydrate.providers.toolbox import TOOL_TIMEOUT_S, Tool, Toolbox, toolbox_of
from rehydrate.providers.vendor_calls import call_vendor
from rehydrate.providers.vendor_stream import IDLE_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rehydrate.providers.tool_loop import Noted
    from rehydrate.providers.toolbox import Answer
    from rehydrate.providers.vendor_events import Ended, Sink
    from rehydrate.providers.vendor_stream import VendorStream


async def run_chat(
    sink: Sink,
    client: Any,
    *,
    messages: Any,
    tools: Mapping[str, Callable[..., Any] | Tool] | Toolbox | None = None,
    vendor_tools: list[dict[str, Any]] | None = None,
    tool_timeout_s: float = TOOL_TIMEOUT_S,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    turns_max: int = TURNS_MAX,
    noted: Noted | None = None,
    **request: Any,
) -> DriverOutcome:
    """Stream a chat completion into *sink*, with all tool calls, and end the response.

    A failure ends the response and is returned, not raised. An exception of the sink, or
    cancellation, closes the stream and propagates.

    Args:
        sink: the response that is being published.
        client: ``openai.AsyncOpenAI``, or ``OpenAI``, whose calls then use threads.
        messages: as for ``client.chat.completions.create``, or a text.
        tools: the functions that the model may call, by name.
        vendor_tools: further tools in the API's own form.
        tool_timeout_s: how long one call of a tool may take, in seconds.
        idle_timeout_s: how long the stream may be silent, in seconds.
        turns_max: how many requests the tool loop may make.
        noted: called with each useful id of the vendor; this API has none.
        request: further arguments of ``client.chat.completions.create``.

    Raises:
        BadParameter: a tool cannot be described, or several choices are asked for.
    """
    check_choices(request)
    toolbox = toolbox_of(tools, timeout_s=tool_timeout_s)
    specs = [*toolbox.nested_specs(), *(vendor_tools or ())]
    if specs:
        request["tools"] = specs
    api = _ChatApi(client, messages, request, idle_timeout_s)
    return await run_tool_loop(sink, api, toolbox, noted=noted, turns_max=turns_max)


def check_choices(request: Mapping[str, Any]) -> None:
    """Check that only one choice is requested, since a response is one answer.

    Raises:
        BadParameter: several choices are requested.
    """
    if request.get("n") not in (None, 1):
        raise BadParameter("n", f"n must be 1, not {request['n']!r}: a response is one choice")


class _ChatApi:
    """The requests of one answer; see `VendorApi`."""

    continues = False

    def __init__(
        self, client: Any, messages: Any, request: dict[str, Any], idle_timeout_s: float
    ) -> None:
        self._client = client
        text = isinstance(messages, str)
        self._messages = [{"role": "user", "content": messages}] if text else list(messages)
        self._request = {"stream_options": {"include_usage": True}, **request}
        self._idle_timeout_s = idle_timeout_s
        self._stream: ChatStream | None = None

    async def request(self, turn: int) -> VendorStream:
        """See `VendorApi`."""
        create = self._client.chat.completions.create
        source = await call_vendor(create, messages=self._messages, stream=True, **self._request)
        prefix = f"{turn}:" if turn else ""
        self._stream = ChatStream(source, prefix=prefix, idle_timeout_s=self._idle_timeout_s)
        return self._stream

    async def reopen(self, stream: VendorStream) -> Any:  # noqa: ARG002 - as in `VendorApi`
        """See `VendorApi`: the API cannot continue a stream."""
        return None

    def answered(self, end: Ended, answers: Sequence[Answer]) -> None:  # noqa: ARG002 - as above
        """See `VendorApi`: every call gets a unique id."""
        self._request.pop("tool_choice", None)  # it applies to the first turn only
        taken = {each.get("tool_call_id") for each in self._messages if isinstance(each, dict)}
        ids: dict[str, str] = {}
        for answer in answers:
            own, n = answer.vendor_id, 1
            while own in taken:
                n += 1
                own = f"{answer.vendor_id}-{n}"
            taken.add(own)
            ids[answer.tool_call_id] = own
        if self._stream is not None:
            self._messages.append(self._stream.message(ids))
        self._messages += [
            {"role": "tool", "tool_call_id": ids[answer.tool_call_id], "content": answer.output}
            for answer in answers
        ]

    async def cancel(self) -> None:
        """See `VendorApi`: closing the stream is enough."""

    def ids(self) -> dict[str, Any]:
        """See `VendorApi`."""
        return {}
