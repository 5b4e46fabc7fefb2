"""Sa, Sb, Sd to Sf, Sh, Si: a seed from the database, and history back to the newest stored id."""

from __future__ import annotations

import asyncio

from appending import DONE as LAST
from holes.recipes import Seam, Shown
from holes.table import cell

STREAMING, DONE = "in progress", "completed"
ONE, TWO = Shown("R1", "R1a R1b ", DONE), Shown("R2", "R2a R2b ", DONE)


async def test_sa_runs_at_the_same_time(growing, row):
    """A run that began before another one ended and was stored is older than the seam: it is
    missing while it streams, and once it is stored as well, the other one is shown twice."""
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
    await ours.must_show(*half)
    await appender.append(first, "R1b ", rid="R1", operation=LAST)
    await growing.store_everywhere("R1", ONE.text)
    reloaded = growing.recipe(Seam)
    await reloaded.hydrate()
    await reloaded.shows(TWO, ONE, TWO)
    await ours.must_show(ONE, TWO)
    late = await growing.readers()
    await late.must_show(ONE, TWO)
    theirs = f"{cell([TWO])}; once R1 is stored: {cell(reloaded.shown)}"
    row.shows("seam", theirs, f"{cell(half)}; once R1 is stored: {cell([ONE, TWO])}")


async def test_sb_only_completed_runs_are_stored(stage, row):
    """A cancelled run is not stored, and the seam moves past it with the next run: its text is lost
    permanently."""
    stage.truth |= {"R1": "R1a ", "R2": TWO.text}
    one = await stage.begin("R1")
    await one.write("R1a ")
    await one.end(asyncio.CancelledError())
    await stage.respond("R2", "R2a ", "R2b ")
    recipe = stage.recipe(Seam)
    await recipe.hydrate()
    ours = await stage.readers()
    await recipe.shows(TWO)
    right = [Shown("R1", "R1a ", "cancelled"), TWO]
    await ours.must_show(*right)
    row.shows("seam", [TWO], right)


async def test_sd_the_seam_is_not_on_the_visible_branch(stage, row):
    """The newest stored message was regenerated: history shows only the new branch, never reaches
    the seam, and all of it is shown again after the seed."""
    stage.truth |= {"R0": "R0a ", "R1": ONE.text, "R1'": "R1'a "}
    await stage.respond("R0", "R0a ")
    await stage.respond("R1", "R1a ", "R1b ")
    await stage.publish_response("R1'", "R1'a ", supersedes="R1")
    recipe = stage.recipe(Seam)
    await recipe.hydrate()
    ours = await stage.readers()
    zero, again = Shown("R0", "R0a ", DONE), Shown("R1'", "R1'a ", STREAMING)
    await recipe.shows(zero, ONE, zero, again)
    await ours.must_show(zero, ONE, again)
    row.shows("seam", recipe.shown, [zero, ONE, again])


async def test_se_retention_is_shorter_than_the_unstored_run(stage, row):
    """A run lasts longer than retention: history ends before it reaches the seam, which is not an
    error."""
    stage.truth |= {"R0": "R0a ", "R1": "R1a R1b R1c "}
    await stage.respond("R0", "R0a ")
    one = await stage.begin("R1")
    await one.write("R1a ", "R1b ")
    await stage.record()
    stage.expire()
    await one.write("R1c ")
    recipe = stage.recipe(Seam)
    await recipe.hydrate()
    ours = await stage.readers()
    zero = Shown("R0", "R0a ", DONE)
    await recipe.shows(zero, Shown("R1", "R1c ", STREAMING))
    right = [zero, Shown("R1", "R1a R1b R1c ", STREAMING)]
    await ours.must_show(*right)
    row.shows("seam", recipe.shown, right)


async def test_sf_history_is_read_too_late(stage, row):
    """A page that attached long ago reads history only when its user scrolls up: the attach point
    has expired (90008)."""
    texts = {f"R{n}": f"R{n}a " for n in range(3)}
    stage.truth |= {**texts, "R3": "R3a R3b "}
    for id_, text in texts.items():
        await stage.respond(id_, text)
    three = await stage.begin("R3")
    await three.write("R3a ")
    recipe = stage.recipe(Seam)
    await recipe.read_database()
    await recipe.attach()
    ours = await stage.readers()
    await three.write("R3b ")
    await stage.record()
    stage.expire()
    await recipe.read_history()
    assert int(recipe.error_code) == 90008
    stored = [Shown(id_, text, DONE) for id_, text in texts.items()]
    wrong, right = Shown("R3", "R3b ", STREAMING), Shown("R3", "R3a R3b ", STREAMING)
    await recipe.shows(*stored, wrong)
    await ours.must_show(*stored, right)
    newest = await stage.hydrate(limit=1, until=recipe.attach_serial)
    assert [(m["id"], m["text"]) for m in newest["messages"]] == [
        ("R2", "R2a "),
        ("R3", right.text),
    ]
    older = await stage.hydrate(limit=50, before=newest["older"])
    assert [m["text"] for m in older["messages"]] == ["R0a ", "R1a "]
    row.shows("seam", recipe.shown, [*stored, right])


async def test_sh_the_seed_is_older_than_history(old_stage, row):
    """The seed is fetched, and the tab sleeps longer than retention before it attaches: runs that
    were stored after the seed, and expired on the channel, are in neither."""
    stage = old_stage
    assert (await stage.hydrate())["rewind_from"]  # there is something to rewind to
    stage.truth |= {"p": "Well?", "q": "And?", "R1": ONE.text, "R2": TWO.text}
    recipe = stage.recipe(Seam)
    await recipe.read_database()
    ours = await stage.waiting_readers()
    await stage.respond("R1", "R1a ", "R1b ")
    await stage.respond("R2", "R2a ", "R2b ")
    await stage.record()
    stage.expire()
    await recipe.attach()
    await recipe.read_history()
    stage.answer()
    right = [Shown("p", "Well?", DONE), Shown("q", "And?", DONE), ONE, TWO]
    await ours.must_show(*right)
    assert recipe.shown == []
    row.shows("seam", [], right)


async def test_si_two_agents_write_the_database(growing, row):
    """Two runs end together, and are inserted in another order than that of the channel: the newest
    row is not the newest message, and one run is shown twice."""
    growing.truth |= {"R1": ONE.text, "R2": TWO.text}
    appender = await growing.appender()
    first = await appender.create("R1", "R1a ")
    second = await appender.create("R2", "R2a ")
    await appender.append(first, "R1b ", rid="R1", operation=LAST)
    await appender.append(second, "R2b ", rid="R2", operation=LAST)
    await growing.record()  # as after a webhook, which gives them their positions
    await growing.store_everywhere("R2", TWO.text)
    await growing.store_everywhere("R1", ONE.text)
    recipe = growing.recipe(Seam)
    await recipe.hydrate()
    ours = await growing.readers()
    await recipe.shows(TWO, ONE, TWO)
    await ours.must_show(ONE, TWO)
    answer = await growing.hydrate()
    assert [m["id"] for m in answer["messages"]] == ["R1", "R2"]
    row.shows("seam", recipe.shown, [ONE, TWO])
