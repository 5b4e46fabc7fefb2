"""Run the tool loop of the Responses API: stream, call the tools, submit their outputs, repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.providers.openai_responses import ResponsesStream
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

_ENCRYPTED = "reasoning.encrypted_content"


async def run_responses(
    sink: Sink,
    client: Any,
    *,
    input: Any,  # noqa: A002 - the name in the vendor's own method
    tools: Mapping[str, Callable[..., Any] | Tool] | Toolbox | None = None,
    vendor_tools: list[dict[str, Any]] | None = None,
    tool_timeout_s: float = TOOL_TIMEOUT_S,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    turns_max: int = TURNS_MAX,
    noted: Noted | None = None,
    **request: Any,
) -> DriverOutcome:
    """Stream an answer of the Responses API into *sink*, with all tool calls, and end the response.

    A failure ends the response and is returned, not raised. An exception of the sink, or
    cancellation, stops the vendor and propagates.

    Args:
        sink: the response that is being published.
        client: ``openai.AsyncOpenAI``, or ``OpenAI``, whose calls then use threads.
        input: the prompt, as for ``client.responses.create``.
        tools: the functions that the model may call, by name.
        vendor_tools: further tools in the API's own form, for instance
            ``{"type": "web_search"}``.
        tool_timeout_s: how long one call of a tool may take, in seconds.
        idle_timeout_s: how long the stream may be silent, in seconds.
        turns_max: how many requests the tool loop may make.
        noted: called with each id of the vendor as soon as it is known.
        request: further arguments of ``client.responses.create``: ``model``, ``instructions``,
            ``previous_response_id``, ``conversation``, ``store``, ``background`` …

    Raises:
        BadParameter: a tool cannot be described.
    """
    toolbox = toolbox_of(tools, timeout_s=tool_timeout_s)
    specs = [*toolbox.specs(), *(vendor_tools or ())]
    if specs:
        request["tools"] = specs
    api = _ResponsesApi(client, input, request, idle_timeout_s)
    return await run_tool_loop(sink, api, toolbox, noted=noted, turns_max=turns_max)


class _ResponsesApi:
    """The requests of one answer; see `VendorApi`."""

    continues = False

    def __init__(
        self, client: Any, input_: Any, request: dict[str, Any], idle_timeout_s: float
    ) -> None:
        self._client = client
        self._input = input_
        self._request = request
        self._idle_timeout_s = idle_timeout_s
        self._response_ids: list[str] = []
        self._stream: ResponsesStream | None = None
        if request.get("store") is False and request.get("tools"):
            # without it, reasoning could not be sent back with the outputs of tools
            wanted = request.get("include") or []
            request["include"] = [*wanted, *({_ENCRYPTED} - set(wanted))]

    async def request(self, turn: int) -> VendorStream:
        """See `VendorApi`."""
        create = self._client.responses.create
        source = await call_vendor(create, input=self._input, stream=True, **self._request)
        prefix = f"{turn}:" if turn else ""
        self._stream = ResponsesStream(source, prefix=prefix, idle_timeout_s=self._idle_timeout_s)
        return self._stream

    async def reopen(self, stream: VendorStream) -> Any:
        """See `VendorApi`: a background response continues at the vendor."""
        at = stream.sequence_number
        response_id = None if self._stream is None else self._stream.response_id
        if not self._request.get("background") or response_id is None or at is None:
            return None
        retrieve = self._client.responses.retrieve
        return await call_vendor(retrieve, response_id, stream=True, starting_after=at)

    def answered(self, end: Ended, answers: Sequence[Answer]) -> None:
        """See `VendorApi`: earlier items are sent too, unless the vendor stores them."""
        self._request.pop("tool_choice", None)  # it applies to the first turn only
        response_id = None if self._stream is None else self._stream.response_id
        if self._request.get("conversation") is not None:
            self._input = [_output(answer, answer.vendor_id) for answer in answers]
        elif self._request.get("store") is False or response_id is None:
            text, before = isinstance(self._input, str), self._input
            before = [{"role": "user", "content": before}] if text else list(before)
            self._input = [*before, *_items(end.items, answers, taken=_call_ids(before))]
        else:
            self._request["previous_response_id"] = response_id
            self._input = [_output(answer, answer.vendor_id) for answer in answers]
        if response_id is not None:
            self._response_ids.append(response_id)

    async def cancel(self) -> None:
        """See `VendorApi`: a background response would continue without its stream."""
        response_id = None if self._stream is None else self._stream.response_id
        if self._request.get("background") and response_id is not None:
            await call_vendor(self._client.responses.cancel, response_id)

    def ids(self) -> dict[str, Any]:
        """See `VendorApi`."""
        last = None if self._stream is None else self._stream.response_id
        ids = [*self._response_ids]
        if last is not None and ids[-1:] != [last]:
            ids.append(last)
        return {"response_ids": tuple(ids)}


def _output(answer: Answer, call_id: str) -> dict[str, Any]:
    return {"type": f"{answer.kind}_output", "call_id": call_id, "output": answer.output}


def _call_ids(items: list[Any]) -> set[str]:
    return {item["call_id"] for item in items if isinstance(item, dict) and "call_id" in item}


def _items(
    items: Sequence[dict[str, Any]], answers: Sequence[Answer], *, taken: set[str]
) -> list[dict[str, Any]]:
    """Return a turn's items as input, then the outputs; each call has a unique id.

    Reasoning that the vendor has not encrypted is left out, since the vendor could not read it.
    """
    left = list(answers)
    found: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    for item in items:
        call_id = item.get("call_id")
        answer = next((each for each in left if each.vendor_id == call_id), None)
        if item.get("type") == "reasoning" and not item.get("encrypted_content"):
            continue
        if answer is None or f"{item.get('type')}" != answer.kind:
            found.append(item)
            continue
        left.remove(answer)
        own, n = answer.vendor_id, 1
        while own in taken:
            n += 1
            own = f"{answer.vendor_id}~{n}"
        taken.add(own)
        found.append({**item, "call_id": own})
        outputs.append(_output(answer, own))
    return [*found, *outputs]
