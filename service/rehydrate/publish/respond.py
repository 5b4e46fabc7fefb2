"""Respond: publish a response token by token, store it, and end it whatever happens.

Nothing is awaited per token. Every acknowledgement is watched; checkpoints, seconds apart, append
what came since to the store and renew the lease. The end is law 7: the text is committed, then a
repair if readers may have seen other text, then the ``stop``; each of the two acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from rehydrate.core.codecs import tokens
from rehydrate.core.event import TERMINAL, Kind, Status
from rehydrate.core.json import HEADER_BITS, is_json, sent_bytes
from rehydrate.core.positions import check_conversation_id, check_message_id
from rehydrate.core.text.assembly import spoken_text
from rehydrate.core.text.parts import clean_parts
from rehydrate.core.text.size_budget import END_BYTES, LABEL_CHARACTERS, VALUE_BYTES, check_parts
from rehydrate.errors import BadParameter, StoreUnavailable, TooLarge
from rehydrate.publish.checkpoints import Checkpoints
from rehydrate.publish.response_writer import Ending, ResponseWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from rehydrate.context import Context

_log = logging.getLogger(__name__)

CHECKPOINT_S = 0.5
CALM = 6
"""While the channel keeps and takes everything, every so many turns are enough for a checkpoint:
less is written, and less than what an attach rewinds is only on the channel."""

METADATA_BYTES = 64_000


class Response:
    """A response that is being published; `respond` makes it, and ends it with its block."""

    def __init__(self, publication: ResponseWriter) -> None:
        self._out = publication
        self.id = publication.id
        self.gen = publication.gen

    @property
    def text(self) -> str:
        """The text so far."""
        self._out.settle()
        return spoken_text(self._out.state.parts())

    def write(self, text: str, *, part: str | None = None) -> None:
        """Append *text* to the response (to its part *part*, if that is given).

        Raises:
            Fenced: (as every method here) the response is not this publisher's any more.
            TooLarge: (likewise) the response would have more than 10 MiB of text, or a million
                events; nothing of *text* is written, and what was written before stays.
            BadParameter: (likewise) *text* is no text, or a name has more than 256 characters.
        """
        self._say("token", text, part=part)

    def refuse(self, text: str, *, part: str | None = None) -> None:
        """Append *text* to a part that says why the model will not answer."""
        self._say("refusal", text, part=part)

    def reason(self, text: str, *, part: str | None = None) -> None:
        """Append *text* to a part that shows the model's reasoning; it is not in the text."""
        self._say("reasoning", text, part=part)

    def tool_call(self, tool_call_id: str, name: str, args: Any = "") -> None:
        """The model calls a tool. *args* may be empty and follow by `tool_args`.

        Raises:
            BadParameter: JSON cannot say *args*.
            TooLarge: (as by a result) they have more than 56,000 bytes and fit no channel message;
                as texts, by `tool_args`, they may.
        """
        _check_label("tool_call_id", tool_call_id)
        _check_label("name", name)
        _check_json("args", args, VALUE_BYTES)
        self._out.emit("tool_call", tool_call_id=tool_call_id, name=name, value=args)

    def tool_args(self, tool_call_id: str, text: str) -> None:
        """Append *text* to the arguments of a call."""
        self._say("tool_args", text, tool_call_id=tool_call_id)

    def tool_result(
        self, tool_call_id: str, result: Any, *, name: str | None = None, failed: bool = False
    ) -> None:
        """A tool has answered, or *failed*: then *result* says why there is no answer.

        Raises:
            BadParameter: JSON cannot say *result*.
        """
        _check_label("tool_call_id", tool_call_id)
        _check_label("name", name or "")
        _check_json("result", result, VALUE_BYTES)
        status: Status | None = "failed" if failed else None
        named = {"tool_call_id": tool_call_id, "name": name}
        self._out.emit("tool_result", **named, value=result, status=status)

    def annotate(self, metadata: Any) -> None:
        """Keep *metadata* with the response, instead of what was kept; stored as its text is.

        Raises:
            BadParameter: JSON cannot say it.
            TooLarge: it has more than 64,000 bytes.
        """
        _check_json("metadata", metadata, METADATA_BYTES)
        self._out.metadata = metadata

    def finish(
        self,
        status: Status = "completed",
        *,
        usage: Any = None,
        error: Any = None,
        parts: list[dict[str, Any]] | None = None,
    ) -> None:
        """Say how the response ends; it ends when the block does.

        *parts*: the final content, if it is known better than by what was written; readers who
        saw other text are told.

        Raises:
            BadParameter: JSON cannot say *usage* or *error*, *parts* are none, or *status* is no
                end.
            TooLarge: *usage* or *error* has more than 16,000 bytes, or *parts* more than a response
                may have.
        """
        if status not in TERMINAL:
            raise BadParameter("status", "a response ends with a status that is terminal")
        _check_json("usage", usage, END_BYTES)
        _check_json("error", error, END_BYTES, most_bits=HEADER_BITS)
        if parts is not None and parts != []:
            if (parts := clean_parts(parts)) is None:
                raise BadParameter(
                    "parts", "parts are text, refusal, reasoning, tool_call, as JSON"
                )
            check_parts(parts)
        self._out.ending = Ending(status, usage, error, parts)

    def _say(self, kind: Kind, text: str, **fields: Any) -> None:
        if not isinstance(text, str):
            raise BadParameter("text", "text is a text")
        for name, value in fields.items():
            if value is not None:
                _check_label(name, value)
        pieces = tokens.split_text(text)
        if len(pieces) > 1:
            self._out.check_room(len(text))
        for piece in pieces:
            self._out.emit(kind, text=piece, **fields)


def _check_json(name: str, value: Any, most_bytes: int, **bounds: int) -> None:
    if not is_json(value, **bounds):
        raise BadParameter(name, f"{name} has to be what JSON can say")
    if value and (size := sent_bytes(value)) > most_bytes:
        raise TooLarge(f"{name} has {size} bytes as JSON; {most_bytes} are taken")


def _check_label(name: str, value: Any) -> None:
    if not isinstance(value, str) or len(value) > LABEL_CHARACTERS:
        raise BadParameter(name, f"{name} is a text of at most {LABEL_CHARACTERS} characters")


@asynccontextmanager
async def respond(
    ctx: Context,
    conversation_id: str,
    response_id: str,
    *,
    prompt_id: str | None = None,
    metadata: Any = None,
    ephemeral: bool = False,
) -> AsyncIterator[Response]:
    """Publish the response *response_id*, written in the block; it ends with the block.

    The block's end is ``completed``, its cancellation ``cancelled``, an exception ``failed``, if
    `Response.finish` did not say otherwise. A response whose publisher is dead is taken over, with
    the next gen.

    Raises:
        BadParameter: an id is outside its syntax, or JSON cannot say *metadata*.
        TooLarge: *metadata* has more than 64,000 bytes.
        Conflict: it has ended already, or its publisher is alive.
        Fenced: it was taken over, ended or erased meanwhile; nothing more is published.
        StoreUnavailable: Postgres did not answer for 30 s; the text is not committed.
        ChannelUnavailable: the text is committed, but Ably did not acknowledge the end.
    """
    check_conversation_id(conversation_id)
    check_message_id(response_id, "response_id")
    if prompt_id is not None:
        check_message_id(prompt_id, "prompt_id")
    _check_json("metadata", metadata, METADATA_BYTES)
    ledger = Checkpoints(ctx, conversation_id)
    gen, name = await ledger.claim(response_id, prompt_id, metadata, ephemeral=ephemeral)
    with ctx.publish_queue.tray(name) as tray:
        publication = ResponseWriter(ctx, response_id, gen, tray=tray, ephemeral=ephemeral)
        publication.start(prompt_id)
        keeping = asyncio.create_task(
            _keep(publication, ledger), name=f"checkpoints of {response_id}"
        )
        try:
            yield Response(publication)
        except BaseException as error:
            publication.ending = publication.ending or _ending_after(error)
            await _surely(_end(publication, ledger, keeping))
            raise
        await _surely(_end(publication, ledger, keeping))


async def _keep(publication: ResponseWriter, ledger: Checkpoints) -> None:
    """Append what was written to the store, and renew the lease.

    The channel has it meanwhile; where Ably keeps less, or took less, it is done at every turn.
    """
    idle_s = 0.0
    while True:
        await asyncio.sleep(CHECKPOINT_S)
        idle_s += CHECKPOINT_S
        calm_s = min(CALM * CHECKPOINT_S, ledger.lease_s / 5)
        due_s = calm_s if publication.unstored else ledger.renew_s
        if idle_s >= due_s or (publication.unstored and publication.urgent):
            try:
                await ledger.checkpoint(publication)
                idle_s = 0.0
            except StoreUnavailable:
                _log.warning("a checkpoint waits for the store")


async def _end(
    publication: ResponseWriter, ledger: Checkpoints, keeping: asyncio.Task[None]
) -> None:
    """Law 7: commit the text, then repair it for readers if need be, then say stop."""
    try:
        ending = await publication.end()  # the lease is renewed meanwhile: this may take long
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    await ledger.commit(publication, ending)
    for event in ending:
        await publication.tell(event)
    await ledger.told(publication)


def _ending_after(error: BaseException) -> Ending:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return Ending("cancelled")
    return Ending("failed", error=type(error).__name__)


async def _surely(ending: Coroutine[Any, Any, None]) -> None:
    """Await *ending* to its own end (it has time limits), also while being cancelled."""
    task = asyncio.create_task(ending)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("a cancelled response could not be ended: %s", type(error).__name__)
        raise
