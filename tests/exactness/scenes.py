"""Channels given message by message, and readers that join them at every time, in every way."""

from __future__ import annotations

from laws.readers import Life, judge, read
from laws.worlds import Joiner, Planned, World, posted

LETTERS = "abcdefghij"


def start(rid, at_s, **more):
    return _said("start", rid, 0, at_s, **more)


def token(rid, seq, at_s, text=None, **more):
    return _said("token", rid, seq, at_s, data=text or LETTERS[(seq or 1) - 1], **more)


def stop(rid, seq, at_s, **more):
    return _said("stop", rid, seq, at_s, **more)


def repair(rid, seq, at_s, text, **more):
    return _said("response-complete", rid, seq, at_s, data=text, **more)


def prompt(at_s, text="hi"):
    return _said("user-input", None, None, at_s, data={"promptId": "P", "text": text})


def _said(name, rid, seq, at_s, *, lag_s=0, index=0, **more):
    return Planned(name, rid, seq, **more), round(at_s * 1000), round(lag_s * 1000), index


def bare(*said):
    """*said* without seqs."""
    return [(each._replace(seq=None), *rest) for each, *rest in said]


def world(*said, serials=True, record_s=(), **more):
    """Return the world of a channel with the messages *said*, in the order of their serials."""
    placed = sorted(enumerate(said), key=lambda each: (each[1][1], each[1][3]))
    log = [
        posted(each, at_ms, index, serials=serials, extra_lag_ms=lag_ms, number=number)
        for number, (each, at_ms, lag_ms, index) in placed
    ]
    return World(tuple(log), catch_ups=tuple(round(s * 1000) for s in record_s), **more)


def wrong(world_, way, at_s, delay_s=0.0):
    """Return what is wrong with what a reader shows that joins at *at_s*; empty if it is exact."""
    return judge(world_, Joiner(way, round(at_s * 1000), round(delay_s * 1000)))


def wrong_anywhere(world_, ways=(1, 2, 3), first_s=9):
    """Return what is wrong for readers that join at any half second, before or after the answer."""
    last_ms = world_.log[-1].message.timestamp_ms + 2500
    joiners = [
        Joiner(way, at_ms, delay_ms)
        for way in ways
        for at_ms in range(first_s * 1000, last_ms, 500)
        for delay_ms in (0, 1000, 2500)
    ]
    return [(joiner, found) for joiner in joiners if (found := judge(world_, joiner))]


async def answer_at(world_, at_s):
    """Return the answer of a hydrate at *at_s*, and its messages by id."""
    life = Life(world_)
    await life.until(round(at_s * 1000))
    hydrated = await life.hydrate()
    return hydrated, {message["id"]: message for message in hydrated.messages}


async def shown(world_, way, at_s, delay_s=0.0):
    """Return what a reader shows, text and status by id, and the answer that it began with."""
    view, answer, failure = await read(
        world_, Joiner(way, round(at_s * 1000), round(delay_s * 1000))
    )
    assert failure is None
    return {m["id"]: (m["text"], m["status"]) for m in view.messages}, answer
