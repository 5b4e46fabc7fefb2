"""Sa, Sb, Sd to Sf, Sh, Si: a seed from the database, and history down to the newest stored id."""

from __future__ import annotations

import asyncio

from appending import DONE as LAST
from holes.recipes import Seam, Shown
from holes.table import cell

STREAMING, DONE = "in progress", "completed"
ONE, TWO = Shown("R1", "R1a R1b ", DONE), Shown("R2", "R2a R2b ", DONE)


async def test_sa_runs_at_the_same_time(growing, row):
    """A run that began before another one ended and was stored lies below the seam: it is absent
    while it streams, and when it is stored, too, the other one comes twice."""
    growing.truth |= {"R1": ONE.text, "R2": TWO.text}
    appender = await growing.appender()
    first = await appender.create("R1", "R1a ")
    second = await appender.create("R2", "R2a ")
    await appender.append(second, "R2b ", rid="R2", operation=LAST)
    await growing.store_everywhere("R2", TWO.text)
    recipe = growing.recipe(Seam)
    await recipe.hydrate()
    ours = await growing.readers()
    await recipe.shows(TWO)
    half = [Shown("R1", "R1a ", STREAMING), TWO]
    await ours.show(*half)
    await appender.append(first, "R1b ", rid="R1", operation=LAST)
    await growing.store_everywhere("R1", ONE.text)
    reloaded = growing.recipe(Seam)
    await reloaded.hydrate()
    await reloaded.shows(TWO, ONE, TWO)
    await ours.show(ONE, TWO)
    late = await growing.readers()
    await late.show(ONE, TWO)
    theirs = f"{cell([TWO])}; once R1 is stored: {cell(reloaded.shown)}"
    row.shows("seam", theirs, f"{cell(half)}; once R1 is stored: {cell([ONE, TWO])}")


async def test_sb_only_what_is_complete_is_stored(stage, row):
    """A run that was cancelled is not stored, and the seam passes it with the next one: its half is
    lost for ever."""
    stage.truth |= {"R1": "R1a ", "R2": TWO.text}
    one = await stage.begin("R1")
    await one.say("R1a ")
    await one.end(asyncio.CancelledError())
    await stage.respond("R2", "R2a ", "R2b ")
    recipe = stage.recipe(Seam)
    await recipe.hydrate()
    ours = await stage.readers()
    await recipe.shows(TWO)
    right = [Shown("R1", "R1a ", "cancelled"), TWO]
    await ours.show(*right)
    row.shows("seam", [TWO], right)


async def test_sd_the_seam_is_not_on_the_visible_branch(stage, row):
    """The newest stored message was regenerated: history shows the new branch alone, never meets the
    seam, and all of it comes again behind the seed."""
    stage.truth |= {"R0": "R0a ", "R1": ONE.text, "R1'": "R1'a "}
    await stage.respond("R0", "R0a ")
    await stage.respond("R1", "R1a ", "R1b ")
    await stage.tell("R1'", "R1'a ", supersedes="R1")
    recipe = stage.recipe(Seam)
    await recipe.hydrate()
    ours = await stage.readers()
    zero, again = Shown("R0", "R0a ", DONE), Shown("R1'", "R1'a ", STREAMING)
    await recipe.shows(zero, ONE, zero, again)
    await ours.show(zero, ONE, again)
    row.shows("seam", recipe.shown, [zero, ONE, again])


async def test_se_retention_is_shorter_than_what_is_not_stored(stage, row):
    """A run lasts for longer than retention: history ends without the seam, which is no error."""
    stage.truth |= {"R0": "R0a ", "R1": "R1a R1b R1c "}
    await stage.respond("R0", "R0a ")
    one = await stage.begin("R1")
    await one.say("R1a ", "R1b ")
    await stage.record()
    stage.forget()
    await one.say("R1c ")
    recipe = stage.recipe(Seam)
    await recipe.hydrate()
    ours = await stage.readers()
    zero = Shown("R0", "R0a ", DONE)
    await recipe.shows(zero, Shown("R1", "R1c ", STREAMING))
    right = [zero, Shown("R1", "R1a R1b R1c ", STREAMING)]
    await ours.show(*right)
    row.shows("seam", recipe.shown, right)


async def test_sf_history_is_read_too_late(stage, row):
    """A page that attached long ago walks back only when its user scrolls up: the attach point is
    gone (90008)."""
    texts = {f"R{n}": f"R{n}a " for n in range(3)}
    stage.truth |= {**texts, "R3": "R3a R3b "}
    for id_, text in texts.items():
        await stage.respond(id_, text)
    three = await stage.begin("R3")
    await three.say("R3a ")
    recipe = stage.recipe(Seam)
    await recipe.read_database()
    await recipe.attach()
    ours = await stage.readers()
    await three.say("R3b ")
    await stage.record()
    stage.forget()
    await recipe.read_history()
    assert int(recipe.error_code) == 90008
    stored = [Shown(id_, text, DONE) for id_, text in texts.items()]
    wrong, right = Shown("R3", "R3b ", STREAMING), Shown("R3", "R3a R3b ", STREAMING)
    await recipe.shows(*stored, wrong)
    await ours.show(*stored, right)
    newest = await stage.ask(limit=1, until=recipe.attach_serial)
    assert [(m["id"], m["text"]) for m in newest["messages"]] == [
        ("R2", "R2a "),
        ("R3", right.text),
    ]
    older = await stage.ask(limit=50, before=newest["older"])
    assert [m["text"] for m in older["messages"]] == ["R0a ", "R1a "]
    row.shows("seam", recipe.shown, [*stored, right])


async def test_sh_the_seed_is_older_than_history(old_stage, row):
    """The seed was fetched, and the tab slept for longer than retention before it attached: what was
    stored after the seed, and forgotten by the channel, is in neither."""
    stage = old_stage
    assert (await stage.ask())["rewind_from"]  # there is something to rewind to
    stage.truth |= {"p": "Well?", "q": "And?", "R1": ONE.text, "R2": TWO.text}
    recipe = stage.recipe(Seam)
    await recipe.read_database()
    ours = await stage.waiting_readers()
    await stage.respond("R1", "R1a ", "R1b ")
    await stage.respond("R2", "R2a ", "R2b ")
    await stage.record()
    stage.forget()
    await recipe.attach()
    await recipe.read_history()
    stage.answer()
    right = [Shown("p", "Well?", DONE), Shown("q", "And?", DONE), ONE, TWO]
    await ours.show(*right)
    assert recipe.shown == []
    row.shows("seam", [], right)


async def test_si_two_agents_write_the_database(growing, row):
    """Two runs end together, and are inserted in another order than the channel has them in: the
    newest row is not the newest message, and one run comes twice."""
    growing.truth |= {"R1": ONE.text, "R2": TWO.text}
    appender = await growing.appender()
    first = await appender.create("R1", "R1a ")
    second = await appender.create("R2", "R2a ")
    await appender.append(first, "R1b ", rid="R1", operation=LAST)
    await appender.append(second, "R2b ", rid="R2", operation=LAST)
    await growing.record()  # as a webhook has it done: that gives them their places
    await growing.store_everywhere("R2", TWO.text)
    await growing.store_everywhere("R1", ONE.text)
    recipe = growing.recipe(Seam)
    await recipe.hydrate()
    ours = await growing.readers()
    await recipe.shows(TWO, ONE, TWO)
    await ours.show(ONE, TWO)
    answer = await growing.ask()
    assert [m["id"] for m in answer["messages"]] == ["R1", "R2"]
    row.shows("seam", recipe.shown, [ONE, TWO])
