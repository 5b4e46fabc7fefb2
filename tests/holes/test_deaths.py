"""H10, H11, H27, Sc, Sg: publishers that die, in real processes, and texts that are repaired."""

from __future__ import annotations

import asyncio

import pytest

from holes.environment import open_environment
from holes.recipes import PATIENCE_S, Seam, Shown, TokenRewind
from holes.stage import staged
from holes.table import cell
from participants import reading

pytestmark = pytest.mark.slow

A3 = ("A1 ", "A2 ", "A3 ")
A = "".join(A3)
STREAMING, DONE, CUT = "in progress", "completed", "interrupted"
LEASE_S = 1.5


@pytest.fixture(scope="module")
async def mortal_environment(channels, module_database, node):
    """A service that considers a silent publisher dead after a short time."""
    async with open_environment(channels, module_database, node, lease_s=LEASE_S) as opened:
        yield opened


@pytest.fixture
async def mortal(mortal_environment):
    async with staged(mortal_environment) as made:
        yield made


@pytest.fixture
async def mortal_too(mortal_environment):
    async with staged(mortal_environment) as made:
        yield made


@pytest.fixture
async def idle(channels, database, node):
    """Like `mortal`, on a channel with appends, and with an idle limit of one second."""
    more = {"channel_template": "mutable:{conversation_id}", "idle_limit_ms": 1000}
    async with open_environment(channels, database, node, **more) as opened, staged(opened) as made:
        yield made


async def kill(process):
    process.kill()
    async with asyncio.timeout(PATIENCE_S):
        await process.wait()


async def too_large_a_repair(stage):
    """Publish a response whose repair is too large for a message; return what readers show."""
    chunks = [f"C{n} {'x ' * 4_990}C{n}. " for n in range(1, 8)]
    stage.truth["C"] = "".join(chunks)
    recipe = stage.recipe(TokenRewind)
    await recipe.hydrate()
    ours = await stage.readers()
    c = await stage.begin("C")
    await c.write(*chunks[:-1])
    with stage.fault("refuse_publish", code=42911, nth=1):
        await c.write(chunks[-1], refused=True)
        await c.end()
    right = Shown("C", stage.truth["C"], DONE)
    await ours.must_show(right)
    wrong = Shown("C", "".join(chunks[:-1]), STREAMING)
    await recipe.shows(wrong)
    return wrong, right


async def dies_without_its_repair(stage, id_, *, keeps):
    """Publish, in a process that is then killed, a response whose second token is refused."""
    tokens = [f"{id_}{n} " for n in (1, 2, 3)]
    stage.truth[id_] = "".join(tokens)
    recipe = stage.recipe(TokenRewind)
    await recipe.hydrate()
    ours = await stage.readers()
    with stage.fault("refuse_publish", code=42911, nth=3):
        process = await stage.process(id_, *tokens, keeps=keeps)
        await stage.wait_for_event(id_, 3)
    if keeps:
        await stage.wait_until_stored(id_, stage.truth[id_])
    await kill(process)
    return recipe, ours


async def test_h10_the_repair_is_lost(mortal, mortal_too, stage, row):
    """A token is refused, and its publisher dies before it publishes the repair: the gap is
    permanent. (B: as A, but it dies before its store has the token, so that text is lost. C: it
    lives, but its repair exceeds the size of a message.)"""
    right = [Shown("A", A, CUT), Shown("B", "B1 B3 ", CUT, ((2, 2),))]
    wrong = [Shown("A", "A1 A3 ", STREAMING), Shown("B", "B1 B3 ", STREAMING)]
    scenes = [
        (mortal, *await dies_without_its_repair(mortal, "A", keeps=True)),
        (mortal_too, *await dies_without_its_repair(mortal_too, "B", keeps=False)),
    ]
    for (scene, recipe, ours), theirs, true in zip(scenes, wrong, right, strict=True):
        await ours.must_show(true)
        await recipe.shows(theirs)
        late = await scene.readers()
        await late.must_show(true)
    theirs, true = await too_large_a_repair(stage)
    row.shows("token R, H", [*wrong, theirs], [*right, true])


async def test_h11_the_agent_crashes(mortal, row):
    """An agent is killed: its response is never stored and has no end. It streams for every later
    reader until it expires on the channel, and then it does not exist."""
    tokens = [f"A{n} " for n in range(1, 51)]
    mortal.truth["A"] = "".join(tokens)
    process = await mortal.process("A", *tokens)
    await mortal.wait_until_stored("A", mortal.truth["A"])
    await kill(process)
    recipe = mortal.recipe(TokenRewind)
    await recipe.hydrate()
    ours = await mortal.readers()
    right = Shown("A", mortal.truth["A"], CUT)
    await ours.must_show(right)
    streams = right._replace(status=STREAMING)
    await recipe.shows(streams)
    mortal.expire()
    reloaded = mortal.recipe(TokenRewind)
    await reloaded.hydrate()
    assert reloaded.shown == []
    late = await mortal.readers()
    await late.must_show(right)
    row.shows("token R", f"{cell([streams])}; later: nothing", [right])


async def test_h27_the_stored_text_is_not_the_shown_one(stage, row):
    """The agent stores what it wrote, not what readers received: a reload changes the text. And the
    successor of a dead agent publishes the same response again with other text."""
    stage.truth |= {"A": A, "B": "B1 B2 "}
    recipe = stage.recipe(TokenRewind)
    await recipe.hydrate()
    a = await stage.begin("A")
    await a.write("A1 ")
    with stage.fault("refuse_publish", code=42911, nth=1):
        await a.write("A2 ", refused=True)
        await a.write("A3 ")
    await stage.publish_response("B", "wrong ")
    ours = await stage.readers()
    stage.truth["B"] = "B1 B2 "
    await stage.publish_response("B", "B1 ", "B2 ", gen=2, stop=True)
    await a.end()
    stage.store("A", A)
    wrong = [Shown("A", "A1 A3 ", STREAMING), Shown("B", "wrong B1 B2 ", STREAMING)]
    await recipe.shows(*wrong)
    reloaded = stage.recipe(TokenRewind)
    await reloaded.hydrate()
    await reloaded.shows(Shown("A", A, DONE), wrong[1])
    right = [Shown("A", A, DONE), Shown("B", "B1 B2 ", DONE)]
    await ours.must_show(*right, allowed=("wrong ",))
    late = await stage.readers()
    await late.must_show(
        *right, allowed=("wrong ",)
    )  # if Ably is slow, the answer consists of the stored part
    row.shows("token R, H", f"{cell(wrong)}; reloaded: {cell(reloaded.shown)}", right)


async def test_sc_stored_after_its_end_was_published(mortal, row):
    """The end of a run is published, and the agent dies before it stores the run; the next run is
    stored, and the seam moves past the first: it is lost."""
    mortal.truth |= {"R1": "R1a R1b ", "R2": "R2a "}
    process = await mortal.process("R1", "R1a ", "R1b ", ends=True)
    await mortal.wait_for_event("R1", 3)
    await kill(process)
    await mortal.respond("R2", "R2a ")
    recipe = mortal.recipe(Seam)
    await recipe.hydrate()
    ours = await mortal.readers()
    two = Shown("R2", "R2a ", DONE)
    right = [Shown("R1", "R1a R1b ", DONE), two]
    await recipe.shows(two)
    await ours.must_show(*right)
    mortal.expire()
    late = await mortal.readers()
    await late.must_show(*right)
    row.shows("seam", [two], right)


async def test_sg_the_agent_crashes(idle, row):
    """An agent that appends is killed: its run streams without end for every reader. (A foreign
    publisher has no lease: the idle limit ends the run until more output arrives. Readers of the
    service's stream see that; readers attached to Ably see it with the next answer.)"""
    idle.truth["R1"] = "R1a R1b "
    recipe = idle.recipe(Seam)
    await recipe.hydrate()
    ours = await idle.readers()
    process = await idle.appending_process("R1", "R1a ", "R1b ")
    streams = Shown("R1", "R1a R1b ", STREAMING)
    await recipe.shows(streams)
    await ours.must_show(streams)
    right = streams._replace(status=CUT)
    async with reading(idle.history, idle.id) as following:
        await kill(process)
        await following.until(lambda reader: reader.statuses.get("R1") == CUT)
        assert following.reader.texts == {"R1": right.text}
    late = await idle.readers()
    await late.must_show(right)
    await recipe.shows(streams)
    row.shows("seam", [streams], [right])
