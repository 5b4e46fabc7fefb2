"""The wire form: messages and answers as JSON, and messages back from it.

A finished message is encoded once, when it is stored. An answer joins those bytes and encodes only
the messages that are open (docs/protocol.md section 8).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rehydrate.core.fold import MessageState, Owner
from rehydrate.core.json import dump, load
from rehydrate.core.message import NO_TIME_MS
from rehydrate.core.text import versioned_messages
from rehydrate.core.text.assembly import parted, spoken_text
from rehydrate.core.text.content import NO_SEQ, collapsed_run
from rehydrate.core.window import ErasedStream, Exclusions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rehydrate.core.timeline import Reason


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

MAX_MS = 253_402_300_799_999
"""The end of the year 9999, the last time that RFC 3339 can express, in ms since 1970."""


WHOLE: frozenset[str] = frozenset()
"""No shortcomings: the message is exact and has no gaps."""


def timestamp(at_ms: int | None) -> str | None:
    """Return *at_ms*, in ms since 1970, as RFC 3339 in UTC."""
    if at_ms is None:
        return None
    at = _EPOCH + timedelta(milliseconds=at_ms)  # exact, unlike a float
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def timestamp_ms(text: str | None) -> int | None:
    """Return *text*, an RFC 3339 time, in ms since 1970.

    Raises:
        ValueError: *text* is not an RFC 3339 time, or in UTC it is not in the year 9999 or before.
    """
    if text is None:
        return None
    at = datetime.fromisoformat(text)
    at_ms = round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    if at_ms > MAX_MS:
        raise ValueError(text)
    return at_ms


def message(state: MessageState) -> dict[str, Any]:
    """Return the wire form of *state*."""
    parts = state.parts()
    text = spoken_text(parts)
    plain = state.role == "user" and [part["type"] for part in parts] in ([], ["text"])
    plain = plain and not state.versioned
    body: dict[str, Any] = {
        "id": state.id,
        "role": state.role,
        "status": state.status,
        "text": text,
        "parts": [] if plain else parts,
        "prompt_id": state.prompt_id,
        "started_at": timestamp(state.started_ms),
        "finished_at": timestamp(state.finished_ms),
        "through": state.through._asdict(),
        "gaps": state.gaps(),
        "repaired": state.repaired,
        "exact": state.exact,
        "unreadable": state.unreadable,
    }
    if state.owner is not None:
        body["client_id"] = state.owner.client_id
    if state.recent:
        body["recent_ids"] = list(state.recent)
    for key in ("usage", "error", "metadata"):
        if (value := getattr(state, key)) is not None:
            body[key] = value
    if state.anonymous:
        body["position"] = state.position
    if state.edits:
        body["edits"] = dict(state.edits)
    if state.steps:
        body["steps"] = dict(state.steps)
    for key in ("anonymous", "provisional", "sealed"):
        if getattr(state, key):
            body[key] = True
    return body


def encode(state: MessageState) -> bytes:
    """Return the wire form of *state* as JSON."""
    return dump(message(state))


_NO_GAPS = b'"gaps":[],"repaired":null,'
_EXACT = b'"exact":true'


def shortcomings(body: bytes) -> frozenset[str]:
    """Return the codes of the reasons for which the message encoded as *body* may lack something.

    Most messages of a page are sent as they are stored, and most of their bytes are text. So the
    members are searched for from the end, where `message` writes them. The last member with such a
    name may be inside ``usage`` or ``metadata``, but then more than one object ends after it.
    Only a message that has the bytes of a shortcoming somewhere is parsed.
    """
    at = body.rfind(b'"exact":')
    if body.startswith(_EXACT, at) and body.endswith(_NO_GAPS, 0, at) and body.count(b"}", at) == 1:
        return WHOLE
    if b'"exact":false' not in body and b'"gaps":[[' not in body:
        return WHOLE
    message = load(body)
    unreadable = message.get("unreadable", 0) > 0
    not_exact = message.get("gaps") or not (message.get("exact", True) or unreadable)
    found = (("unreadable", unreadable), ("not_exact", not_exact))
    return frozenset(code for code, applies in found if applies)


_TEXT, _PARTS = b',"text":"', b'","parts":['


def without_text(body: bytes) -> bytes:
    """Return the message encoded as *body* without its ``text``, if its ``parts`` contain that.

    No string contains either mark: a quotation mark within one is escaped.
    """
    start = body.find(_TEXT)
    end = body.find(_PARTS, start)
    if start < 0 or end < 0 or body.startswith(b"]", end + len(_PARTS)):
        return body
    return body[:start] + body[end + 1 :]


def state_of(body: dict[str, Any], *, position: str | None = None) -> MessageState:
    """Return the state whose wire form is *body*, for a client or a hydrate to continue from.

    Where it has gaps, the text is cut at the places that the parts give. The wire form of an
    earlier
    release gives none: then all text lies before the first gap.

    Args:
        body: the wire form, parsed.
        position: from the row of the message; only anonymous messages carry theirs.
    """
    through = body["through"]
    state = MessageState(body["id"], body["role"], gen=through["gen"])
    state.status = body["status"]
    state.provisional = body.get("provisional", False)
    state.seq, state.serial, state.last_id = through["seq"], through["serial"], through["id"]
    state.prompt_id = body.get("prompt_id")
    state.started_ms = timestamp_ms(body.get("started_at"))
    state.finished_ms = timestamp_ms(body.get("finished_at"))
    state.repaired = body.get("repaired")
    state.owner = Owner(body["client_id"]) if "client_id" in body else None
    state.anonymous = body.get("anonymous", False)
    state.sealed = body.get("sealed", False)
    state.position = body.get("position") if position is None else position
    state.usage, state.error = body.get("usage"), body.get("error")
    state.metadata = body.get("metadata")
    state.start_id = ""  # it has begun; the id does not matter any more
    last_ms = state.finished_ms or state.started_ms or 0
    state.recent = dict.fromkeys(body.get("recent_ids", ()), NO_TIME_MS)
    state.steps = dict(body.get("steps", ()))
    state.edits = dict(body.get("edits", ()))
    parts = [part for part in body["parts"] if not _restore_versioned(state, part, last_ms)]
    is_empty = state.seq is None and state.role != "user" and not (body["parts"] or body["text"])
    may_lack_all = is_empty and not (state.ended and body.get("exact", True))
    if not state.versioned and not may_lack_all:
        parts = parts or [{"type": "text", "text": body["text"]}]
    if parts:
        _restore_runs(state, parts, body.get("gaps", ()), last_ms)
    _restore_exactness(state, body)
    if may_lack_all and state.ended:
        state.inexact = False  # the state says so itself, until a version brings the whole text
    return state


def _restore_exactness(state: MessageState, body: dict[str, Any]) -> None:
    """Restore why the text may lack something.

    Unreadable content is a separate reason: a repair that replaces it makes the message exact. If
    the message also has versions, it may hide another reason, so one is assumed.
    """
    unreadable = body.get("unreadable", 0)
    if (unplaced := unreadable - state.unreadable) > 0:
        state.unreadable_seqs = ((-unplaced, -1),)
    state.inexact = not body.get("exact", True) and (not unreadable or bool(state.versioned))


def _restore_versioned(state: MessageState, part: dict[str, Any], at_ms: int) -> bool:
    """Restore the versioned messages of *part*; return False if it began in none."""
    for each in versioned_messages.from_wire(part, len(state.versioned), at_ms):
        state.versioned[each.serial] = each
    return "through" in part


def _restore_runs(
    state: MessageState, parts: list[dict[str, Any]], gaps: Sequence[Sequence[int]], at_ms: int
) -> None:
    """Cover the seqs that the text contains: all up to ``through.seq`` but the gaps."""
    last = NO_SEQ if state.seq is None else state.seq
    if state.ended and state.seq is not None:
        state.end, last = last, last - 1  # the last seq is the stop's, which has no text
    first = min(0, last)
    *before, behind = parted(parts, gaps)
    for (gap_first, gap_last), content in zip(gaps, before, strict=True):
        state.runs.append(collapsed_run(first, gap_first - 1, content, at_ms))
        first = gap_last + 1
    if first <= last or behind:  # a stop may have the seq of content that was seen
        state.runs.append(collapsed_run(first, max(first, last), behind, at_ms))


def answer(
    *,
    conversation_id: str,
    channel: str,
    until: str | None,
    rewind_from: str | None,
    reasons: list[Reason],
    older: str | None,
    messages: Iterable[bytes],
    exclusions: Exclusions,
    token_names: frozenset[str] = frozenset(),
) -> bytes:
    """Return the hydrated conversation as JSON, around *messages*, which are encoded already."""
    erased: dict[str, Any] = {}
    if exclusions.erased_ids:
        erased["erased_ids"] = exclusions.erased_ids
    if exclusions.erased_stream is not None:
        through, is_open = exclusions.erased_stream
        erased["erased_stream"] = {"through": through, "open": is_open}
    head = dump(
        {
            "conversation_id": conversation_id,
            "channel": channel,
            "until": until,
            "rewind_from": rewind_from,
            "complete": not reasons,
            "reasons": [reason._asdict() for reason in reasons],
            "older": older,
            "agents": exclusions.agents,
            "erased_to": timestamp(exclusions.erased_to_ms),
            **erased,
        }
        | ({"token_names": sorted(token_names)} if token_names else {})
    )
    return b'%b,"messages":[%b]}' % (head[:-1], b",".join(messages))


def exclusions_of(answer: Mapping[str, Any]) -> Exclusions:
    """Return the events that a reader of *answer*, parsed, drops; none if an older release sent it."""
    stream = answer.get("erased_stream")
    return Exclusions(
        tuple(answer.get("agents") or ()),
        timestamp_ms(answer.get("erased_to")),
        tuple(answer.get("erased_ids") or ()),
        ErasedStream(stream["through"], stream["open"]) if stream else None,
    )
