"""H13 to H19: message-per-response, a channel message that grows by appends."""

from __future__ import annotations

import asyncio

import pytest
from ably.util.exceptions import AblyException

from appending import DONE as LAST
from holes.recipes import Finalising, ResponseHistory, ResponseRewind, Shown
from holes.table import cell

STREAMING, DONE = "in progress", "completed"


async def test_h13_history_overtakes_live_appends(growing, row):
    """A page of history is in flight while appends arrive live: it restores the older text, and the
    next append is joined to that."""
    growing.truth["A"] = "Hello world"
    appender = await growing.appender()
    serial = await appender.create("A", "Hello")
    recipe = growing.recipe(ResponseHistory)
    await recipe.read_database()
    await recipe.attach()
    ours = await growing.waiting_readers()
    pages = await recipe.fetch()
    await appender.append(serial, " wor", rid="A")
    await recipe.shows(Shown("A", "Hello wor", STREAMING))
    recipe.fold(pages)
    growing.answer()
    await appender.append(serial, "ld", rid="A", operation=LAST)
    await recipe.shows(Shown("A", "Hellold", STREAMING))
    await ours.must_show(Shown("A", "Hello world", DONE))
    row.shows("response H", recipe.shown, [Shown("A", "Hello world", DONE)])


async def test_h14_an_append_without_its_beginning(growing, row):
    """The delivery of the create is dropped (80020), but Ably counts it as delivered: the next
    append arrives as a delta, and is taken for the whole text."""
    growing.truth["A"] = "A1 A2 "
    appender = await growing.appender()
    recipe = growing.recipe(ResponseRewind)
    await recipe.hydrate()
    ours = await growing.readers()
    with growing.fault("drop_deliveries", code=80020):
        serial = await appender.create("A", "A1 ")
    await appender.append(serial, "A2 ", rid="A")
    await recipe.shows(Shown("A", "A2 ", STREAMING))
    await ours.must_show(Shown("A", "A1 A2 ", STREAMING))
    row.shows("response R, H", recipe.shown, [Shown("A", "A1 A2 ", STREAMING)])


async def stored_and_streaming(growing):
    """Create B, then A, which ends and is stored; B gets no more text."""
    growing.truth |= {"A": "A1 A2 ", "B": "B1 B2 "}
    appender = await growing.appender()
    serial = await appender.create("B", "B1 ")
    await appender.append(serial, "B2 ", rid="B")
    await asyncio.sleep(0.005)  # A has a later timestamp
    serial = await appender.create("A", "A1 ")
    await appender.append(serial, "A2 ", rid="A", operation=LAST)
    await growing.store_everywhere("A", "A1 A2 ")
    return appender


async def test_h15_the_newest_stored_response_is_shown_twice(growing, row):
    """History since the newest stored response begins with that response, which is added a second
    time, as streaming."""
    appender = await stored_and_streaming(growing)
    await appender.create("C", "C1 ")
    growing.truth["C"] = "C1 "
    recipe = growing.recipe(ResponseHistory)
    await recipe.hydrate()
    ours = await growing.readers()
    stored, c = Shown("A", "A1 A2 ", DONE), Shown("C", "C1 ", STREAMING)
    await recipe.shows(stored, c, Shown("A", "A1 A2 ", STREAMING))
    right = [stored, Shown("B", "B1 B2 ", STREAMING), c]
    await ours.must_show(*right)
    row.shows("response H", recipe.shown, right)


async def test_h16_an_older_response_that_is_still_open(growing, row):
    """History is read since the newest stored response was created: an open response that was
    created earlier is not in it."""
    await stored_and_streaming(growing)
    recipe = growing.recipe(ResponseHistory)
    await recipe.hydrate()
    ours = await growing.readers()
    stored = Shown("A", "A1 A2 ", DONE)
    await recipe.shows(stored, stored._replace(status=STREAMING))
    right = [stored, Shown("B", "B1 B2 ", STREAMING)]
    await ours.must_show(*right)
    row.shows("response H", recipe.shown, right)


async def test_h17_a_response_larger_than_a_message(growing, stage, row):
    """A response exceeds the 64 KiB of a message: its appends are refused, and it stops growing.
    (Message-per-response; the same text published by `respond` is whole.)"""
    chunks = [f"A{n} {'x ' * 9_990}A{n}. " for n in range(1, 5)]
    growing.truth["A"], stage.truth["A"] = "".join(chunks[:3]), "".join(chunks)
    appender = await growing.appender()
    recipe = growing.recipe(ResponseRewind)
    await recipe.hydrate()
    theirs = await growing.readers()
    serial = await appender.create("A", "")
    for chunk in chunks[:3]:
        await appender.append(serial, chunk, rid="A")
    with pytest.raises(AblyException) as caught:
        await appender.append(serial, chunks[3], rid="A")
    assert int(caught.value.code) == 40009
    wrong = Shown("A", "".join(chunks[:3]), STREAMING)
    await recipe.shows(wrong)
    await theirs.must_show(wrong)
    ours = await stage.readers()
    await stage.respond("A", *chunks)
    right = Shown("A", "".join(chunks), DONE)
    await ours.must_show(right)
    row.shows("response R, H", [wrong], [right])


async def test_h18_an_append_loses_the_extras(growing, row):
    """An append without extras removes those of its message, and with them the response id: the
    text is dropped."""
    growing.truth["A"] = "A1 A2 A3 "
    appender = await growing.appender()
    recipe = growing.recipe(ResponseRewind)
    await recipe.hydrate()
    ours = await growing.readers()
    serial = await appender.create("A", "A1 ")
    await growing.record()
    with growing.fault("drop_append_extras"):
        await appender.append(serial, "A2 ")
        await appender.append(serial, "A3 ", operation=LAST)
    right = Shown("A", "A1 A2 A3 ", DONE)
    await ours.must_show(right)
    await recipe.shows(Shown("A", "A1 ", STREAMING))
    late = await growing.readers()
    await late.must_show(right)
    row.shows("response R, H", recipe.shown, [right])


async def test_h19_the_end_overtakes_the_tail(growing, row):
    """Ably holds appends back briefly; the message that ends the response is delivered before them,
    and what follows it is dropped."""
    growing.truth["A"] = "A1 A2 A3 "
    appender = await growing.holding_appender(window_ms=500)
    recipe = growing.recipe(Finalising)
    await recipe.hydrate()
    ours = await growing.readers()
    serial = await appender.create("A", "A1 ")
    appends = [appender.append(serial, text, rid="A") for text in ("A2 ", "A3 ")]
    await asyncio.gather(*appends, appender.end("A"))
    wrong = cell([Shown("A", "A1 A2 ", DONE)])
    await recipe.shows(Shown("A", "A1 A2 ", DONE))
    right = Shown("A", "A1 A2 A3 ", DONE)
    await ours.must_show(right, allowed=("A1 ", "A1 A2 "))
    await recipe.shows(Shown("A", "A1 A2 ", DONE))
    row.shows("response R, H", wrong, [right])
