"""Random channels, recorders and readers: what the laws are searched over.

Times are in ms. A `World` is a log with everything that the design allows to happen to it; a
`Joiner` is a reader in one of the three ways.
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
    """Publishers that commit their final row: when, and whose."""
    lag_ms: int = 0
    retention_ms: int = 10**9
    page: int = 1000
    rewind_cap: int = 100
    held: frozenset[str] = frozenset()
    """Versions of channel messages whose delivery is held back until the next one."""


class Joiner(NamedTuple):
    way: int
    at_ms: int
    delay_ms: int


class Said(NamedTuple):
    """A channel message before it has its time."""

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
    """Of a response that appends: which of its channel messages this is, or is appended to."""


def serial(at_ms, index=0):
    return f"{at_ms:014d}-000@s:{index:03d}"


def posted(said, at_ms, index=0, *, serials=True, extra_lag_ms=0, number=0, creates=None):
    headers = {}
    if said.rid is not None and said.name != "user-input":
        headers["responseId"] = said.rid
    if said.seq is not None:
        headers["seq"] = said.seq
    if said.gen != 1:
        headers["gen"] = said.gen
    if said.replay:
        headers["replayOf"] = "R"
    if said.status:
        headers["status"] = said.status
    if said.part:
        headers["part"] = said.part
    if said.cell is not None:
        return Posted(appended(said, serial(at_ms, index), at_ms, number, creates), extra_lag_ms)
    message = ChannelMessage(
        said.name,
        said.data,
        said.id or f"m{number}",
        serial(at_ms, index) if serials else None,
        at_ms,
        None,
        {"headers": headers} if headers else None,
    )
    return Posted(message, extra_lag_ms)


def appended(said, own, at_ms, number, creates):
    """A create, or an append to the one that *creates* knows."""
    first = creates.setdefault((said.rid, said.cell), (own, at_ms))
    return ChannelMessage(
        said.name,
        said.data,
        f"m{number}",
        first[0],
        first[1],
        None,
        {"headers": {"responseId": said.rid}},
        0 if own == first[0] else 5,
        own,
        {"phase": "done"} if said.status else None,
    )


@st.composite
def appending(draw, index, features):
    """A response of one channel message, or of several, to which its publisher appends."""
    rid, cells = "ABC"[index], features.get("cells", 1)
    said = []
    for j in range(draw(st.integers(1, 5))):
        cell = 0 if not j else draw(st.integers(0, cells - 1))
        said.append(Said("response", rid, data=LETTERS[j + 7 * index], cell=cell))
    if features.get("done"):
        said[-1] = said[-1]._replace(status="done")
    else:
        said.append(Said("response-end", rid))
    if features.get("stop_first"):
        said.append(said.pop(-2))
    return said


@st.composite
def response(draw, index, features):
    """The channel messages of one response, in its publisher's order, after what befell them."""
    if features.get("appends") and (index or features["appends"] != "mixed"):
        return draw(appending(index, features))
    rid, tokens = "ABC"[index], draw(st.integers(1, 4))
    said = draw(written(index, tokens, features))
    if features.get("late") and tokens > 1 and len(said) > 3:
        at = draw(st.integers(1, len(said) - 2))
        said.insert(draw(st.integers(at + 1, len(said) - 1)), said.pop(at))
    if features.get("short_stop"):
        said[-1] = said[-1]._replace(seq=said[-1].seq - 1, status="interrupted")
    if features.get("stop_first"):
        said.append(said.pop(-2))
    if features.get("replay") and index == features["responses"] - 1:
        said = [each._replace(replay=True) for each in said]
    if features.get("twice"):
        said = [each._replace(id=f"{rid}{j}") for j, each in enumerate(said)]
        at = draw(st.integers(0, len(said) - 1))
        said.insert(draw(st.integers(at + 1, len(said))), said[at])
    if not features.get("seq", True):
        said = [each._replace(seq=None) for each in said]
    if features.get("anonymous"):
        said = [each._replace(rid=None) for each in said]
    return said


@st.composite
def written(draw, index, tokens, features):
    """What its publisher wrote: refused here, repaired there, taken over."""
    rid = "ABC"[index]
    letter = lambda j: LETTERS[j + 7 * index]  # noqa: E731 - a table
    full = "".join(letter(j) for j in range(tokens))
    said = [Said("start", rid, 0)] if features.get("start", True) else []
    said += [Said("token", rid, j + 1, letter(j)) for j in range(tokens)]
    if features.get("stop", True):
        said.append(Said("stop", rid, tokens + 1))
    if features.get("gen"):
        said = draw(taken_over(said, rid, tokens))
    if features.get("parts"):
        said = [draw(in_a_part(each)) if each.name == "token" else each for each in said]
    gone = None
    if features.get("refuse"):
        gone = draw(st.integers(1, tokens))
        said = [each for each in said if each.seq != gone]
    repair = features.get("repair")
    if repair == "before":
        said.insert(len(said) - 1, Said("response-complete", rid, tokens, full))
    if repair == "after":
        said.append(Said("response-complete", rid, tokens, full))
    if repair == "mid":
        upto = draw(st.integers(1, tokens))
        at = upto + 1 - (gone is not None and gone <= upto)
        said.insert(at, Said("response-complete", rid, upto, full[:upto]))
    return said


@st.composite
def in_a_part(draw, said):
    """A token, or other text, for a part of its own name or for the one that is being said."""
    kinds = st.sampled_from(["token", "token", "refusal", "reasoning"])
    return said._replace(name=draw(kinds), part=draw(st.sampled_from([None, "x", "y"])))


@st.composite
def taken_over(draw, said, rid, tokens):
    """A second publisher starts over with other text; a zombie's tokens may come after it."""
    at = draw(st.integers(1, tokens))
    zombie = [each for each in said[at + 1 :] if each.name == "token"][: draw(st.integers(0, 1))]
    second = [Said("start", rid, 0, gen=2)]
    second += [Said("token", rid, j + 1, LETTERS[j].upper(), gen=2) for j in range(tokens)]
    second.append(Said("stop", rid, tokens + 1, gen=2))
    return [*said[: at + 1], second[0], *zombie, *second[1:]]


@st.composite
def worlds(draw, **features):
    """A world with up to ``responses`` interleaved responses and the given *features*."""
    most = features.setdefault("responses", 2)
    count = draw(st.integers(1, most))
    streams = [draw(response(i, features | {"responses": count})) for i in range(count)]
    if features.get("anonymous"):
        streams = [[each for stream in streams for each in stream]]
    if features.get("prompts"):
        streams.append([Said("user-input", None, data={"promptId": "P", "text": "hi"})])
    lags = [draw(st.integers(0, 2)) * 1000 for _ in range(count)]
    log, at_ms, index, creates = [], 10_000, 0, {}
    while any(streams):
        which = draw(st.sampled_from([i for i, stream in enumerate(streams) if stream]))
        said = streams[which].pop(0)
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
                said,
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
