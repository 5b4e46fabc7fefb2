"""Respond: publish a response token by token, store it, and end it in every case.

Nothing is awaited per token, and every acknowledgement is checked. Checkpoints, seconds apart,
append the new events to the store and renew the lease. The end follows law 7: the text is
committed; then a repair is published, if readers may have seen other text; then the ``stop``. Both
are acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from rehydrate.background import PeriodicTask
from rehydrate.context import Context
from rehydrate.core import codecs
from rehydrate.core.event import TERMINAL, Kind, Status
from rehydrate.core.json import HEADER_BITS, is_json, sent_bytes
from rehydrate.core.positions import check_conversation_id, check_message_id
from rehydrate.core.text.assembly import spoken_text
from rehydrate.core.text.content import (
    END_BYTES,
    LABEL_CHARACTERS,
    VALUE_BYTES,
    check_parts,
    clean_parts,
)
from rehydrate.errors import BadParameter, Fenced, TooLarge
from rehydrate.publish import prompts
from rehydrate.publish.checkpoints import Checkpoints
from rehydrate.publish.response_writer import Ending, ResponseWriter

_log = logging.getLogger(__name__)

CHECKPOINT_S = 0.5
CALM_INTERVALS = 6
"""Intervals between checkpoints while the channel has all of the text. Fewer writes; and what is
only on the channel stays less than an attach rewinds."""

METADATA_BYTES = 64_000


class Response:
    """A response that is being published, created by `respond` and ended with its block."""

    def __init__(self, writer: ResponseWriter) -> None:
        self._writer = writer
        self.id = writer.id
        self.gen = writer.gen

    @property
    def text(self) -> str:
        """The text so far."""
        self._writer.close_draft()
        return spoken_text(self._writer.state.parts())

    def write(self, text: str, *, part: str | None = None) -> None:
        """Append *text* to the response (to its part *part*, if that is given).

        Raises:
            Fenced: the response no longer belongs to this publisher (as for every method here).
            TooLarge: the response would exceed 10 MiB of text or a million events; nothing of
                *text* is written (as for every method here).
            BadParameter: *text* is not a string, or a name has more than 256 characters (as for
                every method here).
        """
        self._emit_text("token", text, part=part)

    def refuse(self, text: str, *, part: str | None = None) -> None:
        """Append *text* to a refusal part, which explains why the model does not answer."""
        self._emit_text("refusal", text, part=part)

    def reason(self, text: str, *, part: str | None = None) -> None:
        """Append *text* to a reasoning part, which is not included in the response's text."""
        self._emit_text("reasoning", text, part=part)

    def tool_call(self, tool_call_id: str, name: str, args: Any = "") -> None:
        """Add a tool call. *args* may be empty and follow by `tool_args`.

        Raises:
            BadParameter: *args* is not JSON-serializable.
            TooLarge: *args* has more than 56,000 bytes as JSON and does not fit a channel message;
                `tool_args` accepts it in pieces.
        """
        _check_label("tool_call_id", tool_call_id)
        _check_label("name", name)
        _check_json("args", args, VALUE_BYTES)
        self._writer.emit("tool_call", tool_call_id=tool_call_id, name=name, value=args)

    def tool_args(self, tool_call_id: str, text: str) -> None:
        """Append *text* to the arguments of a tool call."""
        self._emit_text("tool_args", text, tool_call_id=tool_call_id)

    def tool_result(
        self, tool_call_id: str, result: Any, *, name: str | None = None, failed: bool = False
    ) -> None:
        """Add the result of a tool call. *failed*: *result* describes the failure.

        Raises:
            BadParameter: *result* is not JSON-serializable.
            TooLarge: *result* has more than 56,000 bytes as JSON.
        """
        _check_label("tool_call_id", tool_call_id)
        _check_label("name", name or "")
        _check_json("result", result, VALUE_BYTES)
        status: Status | None = "failed" if failed else None
        named = {"tool_call_id": tool_call_id, "name": name}
        self._writer.emit("tool_result", **named, value=result, status=status)

    def annotate(self, metadata: Any) -> None:
        """Replace the metadata of the response; stored with the next checkpoint.

        Raises:
            BadParameter: *metadata* is not JSON-serializable.
            TooLarge: *metadata* has more than 64,000 bytes as JSON.
        """
        _check_json("metadata", metadata, METADATA_BYTES)
        self._writer.metadata = metadata

    def finish(
        self,
        status: Status = "completed",
        *,
        usage: Any = None,
        error: Any = None,
        parts: list[dict[str, Any]] | None = None,
    ) -> None:
        """Set how the response ends when the block does.

        Args:
            status: a terminal status.
            usage: the vendor's usage figures; JSON.
            error: a description of a failure; JSON.
            parts: the final content, if it differs from what was written; a repair is published.

        Raises:
            BadParameter: *usage* or *error* is not JSON-serializable, *parts* is invalid, or
                *status* is not terminal.
            TooLarge: *usage* or *error* has more than 16,000 bytes as JSON, or *parts* exceeds the
                limits of a response.
        """
        if status not in TERMINAL:
            raise BadParameter("status", f"status must be one of {', '.join(sorted(TERMINAL))}")
        _check_json("usage", usage, END_BYTES)
        _check_json("error", error, END_BYTES, most_bits=HEADER_BITS)
        if parts is not None and parts != []:
            if (parts := clean_parts(parts)) is None:
                raise BadParameter(
                    "parts", "parts must be text, refusal, reasoning or tool_call objects"
                )
            check_parts(parts)
        self._writer.ending = Ending(status, usage, error, parts)

    def _emit_text(self, kind: Kind, text: str, **fields: Any) -> None:
        if not isinstance(text, str):
            raise BadParameter("text", "text must be a string")
        for name, value in fields.items():
            if value is not None:
                _check_label(name, value)
        pieces = codecs.split_text(text)
        if len(pieces) > 1:
            self._writer.check_room(len(text))
        for piece in pieces:
            self._writer.emit(kind, text=piece, **fields)


def _check_json(name: str, value: Any, most_bytes: int, **bounds: int) -> None:
    if not is_json(value, **bounds):
        raise BadParameter(name, f"{name} must be JSON-serializable")
    if value and (size := sent_bytes(value)) > most_bytes:
        raise TooLarge(f"{name} has {size} bytes as JSON; the limit is {most_bytes}")


def _check_label(name: str, value: Any) -> None:
    if not isinstance(value, str) or len(value) > LABEL_CHARACTERS:
        raise BadParameter(
            name, f"{name} must be a string of at most {LABEL_CHARACTERS} characters"
        )


@asynccontextmanager
async def respond(
    ctx: Context,
    conversation_id: str,
    response_id: str,
    *,
    prompt_id: str | None = None,
    prompt: str | None = None,
    metadata: Any = None,
    ephemeral: bool = False,
) -> AsyncIterator[Response]:
    """Publish the response that the block writes, and end it with the block.

    The text *prompt* is published as the prompt *prompt_id* between the claim of the response and
    its start, so that a call whose response id is already taken publishes nothing.

    The status is ``completed`` after the block, ``cancelled`` after its cancellation and ``failed``
    after an exception, unless `Response.finish` has set it. A response whose publisher is dead is
    taken over with the next gen.

    Raises:
        BadParameter: an id has an invalid syntax, or *metadata* is not JSON-serializable.
        TooLarge: *metadata* has more than 64,000 bytes as JSON.
        Conflict: the response has ended already, its publisher is alive, or its prompt was erased.
        Fenced: the response was taken over, ended or erased; nothing more is published.
        StoreUnavailable: Postgres did not answer for 30 s; the text is not committed.
        ChannelUnavailable: the text is committed, but Ably did not acknowledge the end.
    """
    check_conversation_id(conversation_id)
    check_message_id(response_id, "response_id")
    if prompt_id is not None:
        check_message_id(prompt_id, "prompt_id")
    _check_json("metadata", metadata, METADATA_BYTES)
    if prompt is not None and prompt_id is not None:
        await prompts.new_prompt(ctx, conversation_id, prompt, prompt_id=prompt_id)
    checkpoints = Checkpoints(ctx, conversation_id)
    gen, name = await checkpoints.claim(response_id, prompt_id, metadata, ephemeral=ephemeral)
    with ctx.publish_queue.channel(name) as queue:
        writer = ResponseWriter(ctx, response_id, gen, queue=queue, ephemeral=ephemeral)
        save = partial(_save_if_due, writer, checkpoints)
        saving = PeriodicTask("checkpoints", save, every_s=CHECKPOINT_S)
        try:
            try:
                if prompt is not None:
                    await prompts.prompt(ctx, conversation_id, prompt, prompt_id=prompt_id)
            finally:
                writer.start(prompt_id)
                saving.open()
            yield Response(writer)
        except BaseException as error:
            writer.ending = writer.ending or _ending_after(error)
            await _run_to_end(_end(writer, checkpoints, saving))
            raise
        await _run_to_end(_end(writer, checkpoints, saving))


async def _save_if_due(writer: ResponseWriter, checkpoints: Checkpoints) -> None:
    """Append new events to the store, and renew the lease, each when it is due.

    The channel has the events in the meantime. Where it lacks some, every interval is used. A
    failure is repeated at the next interval, for as long as the response is this publisher's.
    """
    calm_s = min(CALM_INTERVALS * CHECKPOINT_S, checkpoints.lease_s / 5)
    due_s = calm_s if writer.unstored else checkpoints.renew_s
    must_save = bool(writer.unstored) and writer.needs_store
    if not checkpoints.lost and (checkpoints.idle_s >= due_s or must_save):
        with suppress(Fenced):  # what is written next raises it
            await checkpoints.checkpoint(writer)


async def _end(writer: ResponseWriter, checkpoints: Checkpoints, saving: PeriodicTask) -> None:
    """End the response by law 7: commit the text, publish a repair if needed, then the stop."""
    try:
        ending = await writer.end()  # may take long; the lease is renewed in the meantime
    finally:
        await saving.close()
    await checkpoints.commit(writer, ending)
    for event in ending:
        await writer.publish_until_acked(event)
    await checkpoints.mark_stop_acked(writer)


def _ending_after(error: BaseException) -> Ending:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return Ending("cancelled")
    return Ending("failed", error=type(error).__name__)


async def _run_to_end(ending: Coroutine[Any, Any, None]) -> None:
    """Await *ending* until it is done, even while cancelled. It has time limits of its own."""
    task = asyncio.create_task(ending)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("ending a cancelled response failed: %s", type(error).__name__)
        raise
