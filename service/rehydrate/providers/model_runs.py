"""Have a vendor's model answer a prompt in a conversation, tools included, until it is done."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from weakref import WeakValueDictionary

from rehydrate.core.positions import check_message_id
from rehydrate.providers import vendor_ids
from rehydrate.providers.assistants_driver import run_assistants
from rehydrate.providers.chat_driver import check_choices, run_chat
from rehydrate.providers.prompts import text_of_input
from rehydrate.providers.responses_driver import run_responses
from rehydrate.providers.vendor_ids import VendorIds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from rehydrate.providers.tool_loop import DriverOutcome
    from rehydrate.providers.toolbox import Tool, Toolbox
    from rehydrate.providers.vendor_ids import ResponseSink

    Tools = Mapping[str, Callable[..., Any] | Tool]
    Drive = Callable[[ResponseSink, VendorIds], Awaitable[DriverOutcome]]
    Newest = Callable[[str, int], Awaitable[list[dict[str, Any]]]]
    Cancels = Callable[[str, str], AbstractAsyncContextManager[asyncio.Event]]

_MAX_SEARCHED = 50
"""How many of the newest messages are searched for the vendor's ids."""


class Driven(NamedTuple):
    """The result of a model run.

    Attributes:
        prompt_id: the prompt that was answered; None: there was no text to show to readers.
        response_id: the response.
        outcome: how it ended: ``status``, ``error``, ``usage``, the vendor's ids.
    """

    prompt_id: str | None
    response_id: str
    outcome: DriverOutcome


class RunNames(NamedTuple):
    """What the messages of a run are called, and what is stored with the response.

    Attributes:
        prompt: the text that readers see; None: the last text of a user in the input.
        prompt_id: of a prompt that exists, or to make a repeated call idempotent; None: a new id.
        response_id: the response's id; None: a new one.
        metadata: stored with the response, in addition to the vendor's ids.
    """

    prompt: str | None = None
    prompt_id: str | None = None
    response_id: str | None = None
    metadata: Mapping[str, Any] | None = None


class Respond(Protocol):
    """Publishes a response, written in the block."""

    def __call__(
        self,
        conversation_id: str,
        response_id: str,
        *,
        prompt_id: str | None,
        prompt: str | None,
        metadata: Any,
    ) -> AbstractAsyncContextManager[ResponseSink]:
        """Claim the response, publish the *prompt* if it is given, and publish the response."""
        ...


class ModelRuns:
    """The model runs of a process.

    Args:
        respond: publishes a response.
        newest: returns up to the given number of finished messages of a conversation, newest first.
        cancels: yields an event that is set when a client cancels the response on the channel.
    """

    def __init__(self, *, respond: Respond, newest: Newest, cancels: Cancels) -> None:
        self._respond = respond
        self._newest = newest
        self._cancels = cancels
        self._threads: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run_responses(
        self,
        conversation_id: str,
        client: Any,
        names: RunNames,
        *,
        toolbox: Toolbox,
        input_: Any,
        request: dict[str, Any],
    ) -> Driven:
        """Run OpenAI's Responses API on *input_*; see `rehydrate.History.run_openai`."""
        explicit = {"previous_response_id", "conversation"} & request.keys()

        async def drive(response: ResponseSink, ids: VendorIds) -> DriverOutcome:
            if not explicit and request.get("store") is not False:
                messages = await self._newest(conversation_id, _MAX_SEARCHED)
                if (previous := vendor_ids.previous_response_id(messages)) is not None:
                    request["previous_response_id"] = previous
            return await run_responses(
                response, client, input=input_, tools=toolbox, noted=ids, **request
            )

        return await self._run(conversation_id, input_, names, drive)

    async def run_chat(
        self,
        conversation_id: str,
        client: Any,
        names: RunNames,
        *,
        toolbox: Toolbox,
        messages: Any,
        request: dict[str, Any],
    ) -> Driven:
        """Run a chat completion on *messages*; see `rehydrate.History.run_openai_chat`."""
        check_choices(request)

        async def drive(response: ResponseSink, ids: VendorIds) -> DriverOutcome:
            return await run_chat(
                response, client, messages=messages, tools=toolbox, noted=ids, **request
            )

        return await self._run(conversation_id, messages, names, drive)

    async def run_assistant(
        self,
        conversation_id: str,
        client: Any,
        names: RunNames,
        *,
        toolbox: Toolbox,
        input_: Any,
        thread_id: str | None,
        request: dict[str, Any],
    ) -> Driven:
        """Run an assistant on *input_*; see `rehydrate.History.run_openai_assistant`."""

        async def drive(response: ResponseSink, ids: VendorIds) -> DriverOutcome:
            # A thread has one run at a time, so the prompts of a conversation take turns.
            async with self._threads.setdefault(conversation_id, asyncio.Lock()):
                messages = await self._newest(conversation_id, _MAX_SEARCHED)
                known = thread_id or vendor_ids.thread_id(messages)
                if known is not None:
                    ids("thread", known)
                return await run_assistants(
                    response,
                    client,
                    input=input_,
                    thread_id=known,
                    tools=toolbox,
                    noted=ids,
                    **request,
                )

        return await self._run(conversation_id, input_, names, drive)

    async def _run(
        self, conversation_id: str, input_: Any, names: RunNames, drive: Drive
    ) -> Driven:
        """Publish the prompt, then the response that *drive* writes, until it or a cancel ends it."""
        response_id, metadata = names.response_id, names.metadata
        if response_id is None:
            response_id = f"r-{uuid.uuid4().hex}"
        check_message_id(response_id, "response_id")
        prompt_id, text = names.prompt_id, names.prompt or text_of_input(input_)
        if text and prompt_id is None:
            prompt_id = f"p-{uuid.uuid4().hex}"
        publishing = self._respond(
            conversation_id, response_id, prompt_id=prompt_id, prompt=text, metadata=metadata
        )
        try:
            async with publishing as response:
                ids = VendorIds(response, metadata or {})
                async with self._cancels(conversation_id, response_id) as cancelled:
                    outcome = await _until_cancelled(drive(response, ids), cancelled)
        except _CancelledByClient:
            outcome = ids.outcome("cancelled")
        return Driven(prompt_id, response_id, outcome)


class _CancelledByClient(asyncio.CancelledError):
    """A client has published a ``cancel`` for the response."""


async def _until_cancelled(
    driving: Awaitable[DriverOutcome], cancelled: asyncio.Event
) -> DriverOutcome:
    """Return the result of *driving*.

    Raises:
        _CancelledByClient: *cancelled* was set first; *driving* was cancelled, and has ended.
    """
    task = asyncio.ensure_future(driving)
    waiting = asyncio.create_task(cancelled.wait(), name="waiting for a cancel")
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)  # stops the vendor, within its limits
        raise
    finally:
        waiting.cancel()
    if task.cancelled():
        raise _CancelledByClient
    return task.result()
