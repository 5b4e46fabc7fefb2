"""Random channels, recorders and readers, over which the laws are searched.

Times are in ms. A `World` is a log with everything that the design permits to happen to it; a
`Joiner` is a reader that joins in one of the three ways.
"""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from laws.memory import Posted
from rehydrate.core.event import ChannelMessage

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class World(NamedTuple):
    log: tuple[Posted, ...]
    catch_ups: tuple[int, ...] = ()
    finals: tuple[tuple[int, str], ...] = ()
    """The commits of final rows: when, and of which response."""
    lag_ms: int = 0
    retention_ms: int = 10**9
    page: int = 1000
    rewind_cap: int = 100
    held: frozenset[str] = frozenset()
    """The versions of channel messages that are delivered together with the next version."""


class Joiner(NamedTuple):
    way: int
    at_ms: int
    delay_ms: int


class Planned(NamedTuple):
    """A channel message without its time."""

    name: str
    rid: str | None
    seq: int | None = None
    data: object = None
    gen: int = 1
    id: str | None = None
    replay: bool = False
    status: str | None = None
    part: str | None = None
    cell: int | None = None
    """For a response that appends: which of its channel messages this creates or appends to."""


def serial(at_ms, index=0):
    return f"{at_ms:014d}-000@s:{index:03d}"


def posted(planned, at_ms, index=0, *, serials=True, extra_lag_ms=0, number=0, creates=None):
    headers = {}
    if planned.rid is not None and planned.name != "user-input":
        headers["responseId"] = planned.rid
    if planned.seq is not None:
        headers["seq"] = planned.seq
    if planned.gen != 1:
        headers["gen"] = planned.gen
    if planned.replay:
        headers["replayOf"] = "R"
    if planned.status:
        headers["status"] = planned.status
    if planned.part:
        headers["part"] = planned.part
    if planned.cell is not None:
        return Posted(appended(planned, serial(at_ms, index), at_ms, number, creates), extra_lag_ms)
    message = ChannelMessage(
        planned.name,
        planned.data,
        planned.id or f"m{number}",
        serial(at_ms, index) if serials else None,
        at_ms,
        None,
        {"headers": headers} if headers else None,
    )
    return Posted(message, extra_lag_ms)


def appended(planned, own, at_ms, number, creates):
    """Return a create, or an append to the message in *creates*."""
    first = creates.setdefault((planned.rid, planned.cell), (own, at_ms))
    return ChannelMessage(
        planned.name,
        planned.data,
        f"m{number}",
        first[0],
        first[1],
        None,
        {"headers": {"responseId": planned.rid}},
        0 if own == first[0] else 5,
        own,
        {"phase": "done"} if planned.status else None,
    )


@st.composite
def appending(draw, index, features):
    """Draw a response of one or several channel messages, to which its publisher appends."""
    rid, cells = "ABC"[index], features.get("cells", 1)
    planned = []
    for j in range(draw(st.integers(1, 5))):
        cell = 0 if not j else draw(st.integers(0, cells - 1))
        planned.append(Planned("response", rid, data=LETTERS[j + 7 * index], cell=cell))
    if features.get("done"):
        planned[-1] = planned[-1]._replace(status="done")
    else:
        planned.append(Planned("response-end", rid))
    if features.get("stop_first"):
        planned.append(planned.pop(-2))
    return planned


@st.composite
def response(draw, index, features):
    """Draw the channel messages of one response, in its publisher's order, after random faults."""
    if features.get("appends") and (index or features["appends"] != "mixed"):
        return draw(appending(index, features))
    rid, tokens = "ABC"[index], draw(st.integers(1, 4))
    planned = draw(written(index, tokens, features))
    if features.get("late") and tokens > 1 and len(planned) > 3:
        at = draw(st.integers(1, len(planned) - 2))
        planned.insert(draw(st.integers(at + 1, len(planned) - 1)), planned.pop(at))
    if features.get("short_stop"):
        planned[-1] = planned[-1]._replace(seq=planned[-1].seq - 1, status="interrupted")
    if features.get("stop_first"):
        planned.append(planned.pop(-2))
    if features.get("replay") and index == features["responses"] - 1:
        planned = [each._replace(replay=True) for each in planned]
    if features.get("twice"):
        planned = [each._replace(id=f"{rid}{j}") for j, each in enumerate(planned)]
        at = draw(st.integers(0, len(planned) - 1))
        planned.insert(draw(st.integers(at + 1, len(planned))), planned[at])
    if not features.get("seq", True):
        planned = [each._replace(seq=None) for each in planned]
    if features.get("anonymous"):
        planned = [each._replace(rid=None) for each in planned]
    return planned


@st.composite
def written(draw, index, tokens, features):
    """Draw what its publisher wrote: with refusals, repairs, and a takeover."""
    rid = "ABC"[index]
    letter = lambda j: LETTERS[j + 7 * index]  # noqa: E731 - a table
    full = "".join(letter(j) for j in range(tokens))
    planned = [Planned("start", rid, 0)] if features.get("start", True) else []
    planned += [Planned("token", rid, j + 1, letter(j)) for j in range(tokens)]
    if features.get("stop", True):
        planned.append(Planned("stop", rid, tokens + 1))
    if features.get("gen"):
        planned = draw(taken_over(planned, rid, tokens))
    if features.get("parts"):
        planned = [draw(in_a_part(each)) if each.name == "token" else each for each in planned]
    gone = None
    if features.get("refuse"):
        gone = draw(st.integers(1, tokens))
        planned = [each for each in planned if each.seq != gone]
    repair = features.get("repair")
    if repair == "before":
        planned.insert(len(planned) - 1, Planned("response-complete", rid, tokens, full))
    if repair == "after":
        planned.append(Planned("response-complete", rid, tokens, full))
    if repair == "mid":
        upto = draw(st.integers(1, tokens))
        at = upto + 1 - (gone is not None and gone <= upto)
        planned.insert(at, Planned("response-complete", rid, upto, full[:upto]))
    return planned


@st.composite
def in_a_part(draw, planned):
    """Draw a token or other text, for a named part or for the current one."""
    kinds = st.sampled_from(["token", "token", "refusal", "reasoning"])
    return planned._replace(name=draw(kinds), part=draw(st.sampled_from([None, "x", "y"])))


@st.composite
def taken_over(draw, planned, rid, tokens):
    """Let a second publisher restart with other text; a zombie's tokens may follow."""
    at = draw(st.integers(1, tokens))
    zombie = [each for each in planned[at + 1 :] if each.name == "token"][: draw(st.integers(0, 1))]
    second = [Planned("start", rid, 0, gen=2)]
    second += [Planned("token", rid, j + 1, LETTERS[j].upper(), gen=2) for j in range(tokens)]
    second.append(Planned("stop", rid, tokens + 1, gen=2))
    return [*planned[: at + 1], second[0], *zombie, *second[1:]]


@st.composite
def worlds(draw, **features):
    """Draw a world with up to ``responses`` interleaved responses and the given *features*."""
    most = features.setdefault("responses", 2)
    count = draw(st.integers(1, most))
    streams = [draw(response(i, features | {"responses": count})) for i in range(count)]
    if features.get("anonymous"):
        streams = [[each for stream in streams for each in stream]]
    if features.get("prompts"):
        streams.append([Planned("user-input", None, data={"promptId": "P", "text": "hi"})])
    lags = [draw(st.integers(0, 2)) * 1000 for _ in range(count)]
    log, at_ms, index, creates = [], 10_000, 0, {}
    while any(streams):
        which = draw(st.sampled_from([i for i, stream in enumerate(streams) if stream]))
        planned = streams[which].pop(0)
        if features.get("batch") and log and draw(st.booleans()):
            index += 1
        else:
            at_ms, index = at_ms + draw(st.integers(1, 3)) * features.get("pace_ms", 1000), 0
        extra_ms = 0
        if features.get("lagging") == "response":
            extra_ms = lags[which] if which < count else 0
        elif features.get("lagging"):
            extra_ms = draw(st.integers(0, 2)) * 1000
        log.append(
            posted(
                planned,
                at_ms,
                index,
                serials=features.get("serials", True),
                extra_lag_ms=extra_ms,
                number=len(log),
                creates=creates,
            )
        )
    lag_ms = draw(st.integers(0, 2)) * 1000
    times = st.integers(8, at_ms // 1000 + 3).map(lambda s: s * 1000)
    catch_ups = draw(st.lists(times, max_size=2)) if features.get("record", True) else []
    if features.get("recorded"):
        catch_ups.append(at_ms + 3000)
    finals = ()
    if features.get("finals"):
        finals = tuple((m.timestamp_ms - 1, _rid(m)) for m in _named(log, "stop"))
    world = World(
        tuple(log),
        tuple(sorted(catch_ups)),
        finals,
        lag_ms=min(lag_ms, features.get("most_lag_ms", 2000)),
        retention_ms=features.get("retention_ms", 10**9),
        page=draw(st.integers(1, 5)),
        rewind_cap=features.get("rewind_cap", 100),
    )
    versions = [each.message.version_serial for each in log if each.message.action]
    if features.get("rollup") and versions:
        world = world._replace(held=draw(st.frozensets(st.sampled_from(versions))))
    way = features.get("way") or draw(st.integers(1, 3))
    delays_s = st.integers(0, features.get("most_delay_s", 4))
    return world, Joiner(way, draw(times), draw(delays_s) * 1000)


def _named(log, name):
    return [each.message for each in log if each.message.name == name]


def _rid(message):
    return message.extras["headers"]["responseId"]
