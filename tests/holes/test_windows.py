"""H06, H12, H20 to H23: what was forgotten, dropped, refused, repeated or reordered on the way."""

from __future__ import annotations

import asyncio

import pytest
from ably.util.exceptions import AblyException

from holes.recipes import Shown, TokenHistory, TokenRewind

A3 = ("A1 ", "A2 ", "A3 ")
A = "".join(A3)
STREAMING, DONE = "in progress", "completed"


async def test_h06_a_tab_sleeps_before_it_attaches(old_stage, row):
    """A tab has read the database and sleeps; two responses come, end and are forgotten; then it
    attaches: they are in neither."""
    stage = old_stage
    assert (await stage.ask())["rewind_from"]  # there is something to rewind to
    stage.truth |= {"p": "Well?", "q": "And?", "A": A, "B": "B1 "}
    recipe = stage.recipe(TokenRewind)
    await recipe.read_database()
    ours = await stage.waiting_readers()
    await stage.respond("A", *A3)
    await stage.respond("B", "B1 ")
    await stage.record()
    stage.forget()
    await recipe.attach()
    stage.answer()
    prompts = [Shown("p", "Well?", DONE), Shown("q", "And?", DONE)]
    right = [*prompts, Shown("A", A, DONE), Shown("B", "B1 ", DONE)]
    await ours.show(*right)
    assert recipe.shown == []
    row.shows("token R", [], right)


async def test_h12_a_response_that_is_longer_than_retention(stage, row):
    """History ends before the response began, and the loop cannot tell that from its beginning. (By
    publishers that store nothing, and that nobody recorded: that text is gone. B has no numbers.)"""
    stage.truth["A"] = A
    await stage.tell("A", "A1 ", "A2 ")
    await stage.say("token", "B1 ", rid="B")
    stage.forget()
    await stage.tell("A", "A3 ", first=3)
    await stage.say("token", "B2 ", rid="B")
    recipe = stage.recipe(TokenHistory)
    await recipe.hydrate()
    ours = await stage.readers()
    wrong = [Shown("A", "A3 ", STREAMING), Shown("B", "B2 ", STREAMING)]
    right = [wrong[0]._replace(gaps=((1, 2),)), wrong[1]._replace(status="in progress, not exact")]
    assert sorted(recipe.shown) == wrong
    await ours.show(*right)
    answer = await stage.ask()
    assert not answer["complete"]
    assert [reason["code"] for reason in answer["reasons"]] == ["not_exact"]
    row.shows("token H", wrong, right)


async def test_h20_a_discontinuity_after_the_hydration(stage, row):
    """Ably drops a delivery and says so (80020): nobody listens, and nothing is read again."""
    stage.truth["A"] = A
    a = await stage.begin("A")
    await a.say("A1 ")
    recipe = stage.recipe(TokenRewind)
    await recipe.hydrate()
    ours = await stage.readers()
    await recipe.shows(Shown("A", "A1 ", STREAMING))
    with stage.fault("drop_deliveries", code=80020):
        await a.say("A2 ")
    await a.say("A3 ")
    await ours.show(Shown("A", A, STREAMING))
    await recipe.shows(Shown("A", "A1 A3 ", STREAMING))
    row.shows("token R", recipe.shown, [Shown("A", A, STREAMING)])


@pytest.mark.parametrize("code", [90008, 40024])
async def test_h21_history_until_the_attach_is_refused(stage, row, code):
    """Ably refuses history up to the attach point (90008 when it is late, 40024 in another region):
    the loop raises, with live tokens on the screen."""
    stage.truth["A"] = A
    a = await stage.begin("A")
    await a.say("A1 ", "A2 ")
    recipe = stage.recipe(TokenHistory)
    with stage.fault("refuse_until_attach", code=code):
        await recipe.read_database()
        await recipe.attach()
        ours = await stage.readers()
        await a.say("A3 ")
        await recipe.shows(Shown("A", "A3 ", STREAMING))
        with pytest.raises(AblyException) as caught:
            await recipe.read_history()
        assert int(caught.value.code) == code
        await ours.show(Shown("A", A, STREAMING))
    row.shows("token H", recipe.shown, [Shown("A", A, STREAMING)])


async def test_h22_a_publish_is_repeated(stage, row):
    """A publish is acknowledged too late and sent again without an id: appended text cannot tell. (A
    number can; one who sends neither number nor id cannot be told from one who repeats himself.)"""
    stage.truth["A"] = A
    recipe = stage.recipe(TokenRewind)
    await recipe.hydrate()
    ours = await stage.readers()
    await stage.tell("A", "A1 ")
    with stage.fault("lose_acks"):
        late = asyncio.create_task(stage.say("token", "A2 ", rid="A", seq=2))
        await stage.heard("A", 2)
        late.cancel()
    await stage.another_connection()
    await stage.say("token", "A2 ", rid="A", seq=2)
    await stage.tell("A", "A3 ", first=3, stop=True)
    wrong = Shown("A", "A1 A2 A2 A3 ", STREAMING)
    await recipe.shows(wrong)
    await ours.show(Shown("A", A, DONE))
    late = await stage.readers()
    await late.show(Shown("A", A, DONE))
    row.shows("token R, H", [wrong], [Shown("A", A, DONE)])


async def test_h23_tokens_come_in_another_order(stage, row):
    """Tokens over two connections come in the order of a region, and history is in another. (The
    local channel server has one region: here, a token is overtaken by the next, for everybody.)"""
    stage.truth["A"] = A
    recipe = stage.recipe(TokenRewind)
    await recipe.hydrate()
    ours = await stage.readers()
    await stage.tell("A", "A1 ")
    await stage.say("token", "A3 ", rid="A", seq=3)
    await stage.another_connection()
    await stage.say("token", "A2 ", rid="A", seq=2)
    await stage.say("stop", rid="A", seq=4)
    wrong = Shown("A", "A1 A3 A2 ", STREAMING)
    await recipe.shows(wrong)
    await ours.show(Shown("A", A, DONE))
    late = await stage.readers()
    await late.show(Shown("A", A, DONE))
    row.shows("token R, H", [wrong], [Shown("A", A, DONE)])
