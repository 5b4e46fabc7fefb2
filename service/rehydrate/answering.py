"""The part of the library's front door through which models answer prompts."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.positions import check_message_id
from rehydrate.providers import vendor_ids
from rehydrate.providers.assistants_driver import run_assistants
from rehydrate.providers.prompts import text_of_input
from rehydrate.providers.responses_driver import run_responses
from rehydrate.providers.toolbox import TOOL_TIMEOUT_S, Toolbox
from rehydrate.providers.vendor_ids import VendorIds
from rehydrate.publish.prompts import cancel, prompt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from weakref import WeakValueDictionary

    from rehydrate.context import Context
    from rehydrate.follow.subscriptions import Subscriptions
    from rehydrate.providers.driving import DriverOutcome
    from rehydrate.providers.toolbox import Tool
    from rehydrate.publish.respond import Response

    Tools = Mapping[str, Callable[..., Any] | Tool]
    Drive = Callable[[Response, VendorIds], Awaitable[DriverOutcome]]

_LOOKED_BACK = 50
"""Among how many of the newest messages the vendor's ids are looked for."""


class Driven(NamedTuple):
    """What came of a prompt. ``prompt_id``: None if there was no text that readers could be shown.

    ``outcome``: how the answer ended: ``status``, ``error``, ``usage``, the vendor's ids.
    """

    prompt_id: str | None
    response_id: str
    outcome: DriverOutcome


class _Stopped(asyncio.CancelledError):
    """Somebody asked, on the channel, that the response be stopped."""


class _Names(NamedTuple):
    """What a prompt and its response are called, and what is kept with the response."""

    prompt_id: str | None
    response_id: str | None
    metadata: Mapping[str, Any] | None


class Driving:
    """Who has models answer; a base of `rehydrate.History`."""

    _ctx: Context
    _following: Subscriptions
    _turns: WeakValueDictionary[str, asyncio.Lock]

    if TYPE_CHECKING:

        def respond(
            self, conversation_id: str, response_id: str, *, prompt_id: str | None, metadata: Any
        ) -> AbstractAsyncContextManager[Response]:
            """Kept by another base of `rehydrate.History`."""
            ...

    async def prompt(self, conversation_id: str, text: str, *, prompt_id: str | None = None) -> str:
        """Say a prompt for a user, to everybody, and store it; return its id.

        The same *prompt_id* with the same *text* again changes nothing.

        Raises:
            BadParameter: an id is outside its syntax, or *text* is empty.
            TooLarge: *text* does not fit a channel message.
            Conflict: the id is taken by a message that says something else.
            StoreUnavailable: Postgres does not answer.
            ChannelUnavailable: Ably does not acknowledge it.
        """
        prompt_id = f"p-{uuid.uuid4().hex}" if prompt_id is None else prompt_id
        await prompt(self._ctx, conversation_id, prompt_id, text)
        return prompt_id

    async def cancel(self, conversation_id: str, response_id: str) -> None:
        """Ask whoever drives the response, in whichever process, to stop it.

        It ends as ``cancelled``, with the text so far. Of a response that has ended, nothing comes.

        Raises:
            BadParameter: an id is outside its syntax.
            ChannelUnavailable: Ably does not acknowledge it.
        """
        await cancel(self._ctx, conversation_id, response_id)

    async def run_openai(
        self,
        conversation_id: str,
        client: Any,
        *,
        input: Any,  # noqa: A002 - as the vendor's own method calls it
        tools: Tools | None = None,
        prompt: str | None = None,
        prompt_id: str | None = None,
        response_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tool_timeout_s: float = TOOL_TIMEOUT_S,
        **request: Any,
    ) -> Driven:
        """Have OpenAI's Responses API answer a prompt in a conversation, tools and all.

        The prompt is stored and said; then the answer is, as `respond` would, with every call of a
        tool and its result, until the model is done. A ``cancel`` on the channel stops it (where
        our key may subscribe), and so does cancelling the task; the vendor is stopped, too.

        A bad end is told to everybody and returned, not raised: see ``outcome``.

        Args:
            conversation_id: where.
            client: ``openai.AsyncOpenAI`` (or ``OpenAI``, whose calls then use threads).
            input: as ``client.responses.create`` takes it.
            tools: the functions that the model may call, by name.
            prompt: what readers see of *input*; without it, its last text of a user's.
            prompt_id: of a prompt that is there already, or to make another try harmless.
            response_id: likewise; made up without it.
            metadata: kept with the response, beside the vendor's ids.
            tool_timeout_s: how long one call of a tool may take, in seconds.
            request: further arguments of `rehydrate.providers.responses_driver.run_responses` and
                of ``client.responses.create``. Without ``previous_response_id``, ``conversation``
                and ``store=False``, it goes on from the newest completed answer.

        Raises:
            BadParameter: an id is outside its syntax, or a tool cannot be described; nothing is
                said.
            Conflict: the response has ended already, or its publisher is alive.
            (and what `prompt` and `respond` raise)
        """
        toolbox = Toolbox(tools or {}, timeout_s=tool_timeout_s)
        explicit = {"previous_response_id", "conversation"} & request.keys()

        async def drive(response: Response, ids: VendorIds) -> DriverOutcome:
            if not explicit and request.get("store") is not False:
                messages = await self._newest_first(conversation_id)
                if (previous := vendor_ids.previous_response_id(messages)) is not None:
                    request["previous_response_id"] = previous
            return await run_responses(
                response, client, input=input, tools=toolbox, noted=ids, **request
            )

        names = _Names(prompt_id, response_id, metadata)
        return await self._driven(conversation_id, prompt or text_of_input(input), names, drive)

    async def run_openai_assistant(
        self,
        conversation_id: str,
        client: Any,
        *,
        assistant_id: str,
        input: Any = None,  # noqa: A002 - as in `run_openai`
        thread_id: str | None = None,
        tools: Tools | None = None,
        prompt: str | None = None,
        prompt_id: str | None = None,
        response_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tool_timeout_s: float = TOOL_TIMEOUT_S,
        **request: Any,
    ) -> Driven:
        """Have an assistant of the Assistants API answer a prompt, as `run_openai` does.

        A thread has one run at a time: of several prompts, one waits for the other.

        Args:
            conversation_id: where.
            client: as in `run_openai`.
            assistant_id: which assistant runs.
            input: a text, or content blocks of the API; None: the thread as it is.
            thread_id: the vendor's thread; without it, the conversation's own, or a new one.
            tools: the functions that the assistant may call, by name.
            prompt: as in `run_openai`.
            prompt_id: likewise.
            response_id: likewise.
            metadata: likewise.
            tool_timeout_s: likewise.
            request: further arguments of `rehydrate.providers.assistants_driver.run_assistants`,
                and fields of the run.

        Raises:
            (as `run_openai`)
        """
        toolbox = Toolbox(tools or {}, timeout_s=tool_timeout_s)

        async def drive(response: Response, ids: VendorIds) -> DriverOutcome:
            async with self._turns.setdefault(conversation_id, asyncio.Lock()):
                messages = await self._newest_first(conversation_id)
                known = thread_id or vendor_ids.thread_id(messages)
                if known is not None:
                    ids("thread", known)
                return await run_assistants(
                    response,
                    client,
                    assistant_id=assistant_id,
                    input=input,
                    thread_id=known,
                    tools=toolbox,
                    noted=ids,
                    **request,
                )

        names = _Names(prompt_id, response_id, metadata)
        return await self._driven(conversation_id, prompt or text_of_input(input), names, drive)

    async def _driven(
        self, conversation_id: str, text: str | None, names: _Names, drive: Drive
    ) -> Driven:
        prompt_id, response_id, metadata = names
        response_id = f"r-{uuid.uuid4().hex}" if response_id is None else response_id
        check_message_id(response_id, "response_id")
        if text:
            prompt_id = await self.prompt(conversation_id, text, prompt_id=prompt_id)
        answering = self.respond(
            conversation_id, response_id, prompt_id=prompt_id, metadata=metadata
        )
        try:
            async with answering as response:
                ids = VendorIds(response, metadata or {})
                async with self._following.cancels(conversation_id, response_id) as asked:
                    outcome = await _unless_asked(drive(response, ids), asked)
        except _Stopped:
            outcome = ids.outcome("cancelled")
        return Driven(prompt_id, response_id, outcome)

    async def _newest_first(self, conversation_id: str) -> list[dict[str, Any]]:
        stored = await self._ctx.store.load(conversation_id, limit=_LOOKED_BACK, before=None)
        return [json.loads(row.wire) for row in reversed(stored.finished)]


async def _unless_asked(driving: Awaitable[DriverOutcome], asked: asyncio.Event) -> DriverOutcome:
    """What *driving* returns.

    Raises:
        _Stopped: *asked* was set before; it was cancelled, and has ended.
    """
    task = asyncio.ensure_future(driving)
    stopping = asyncio.create_task(asked.wait(), name="waiting for a cancel")
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)  # stops the vendor, within its limits
        raise
    finally:
        stopping.cancel()
    if task.cancelled():
        raise _Stopped
    return task.result()
