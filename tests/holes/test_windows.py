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
    """A tab reads the database and sleeps; two responses begin, end and expire on the channel; then
    it attaches: they are in neither."""
    stage = old_stage
    assert (await stage.hydrate())["rewind_from"]  # there is something to rewind to
    stage.truth |= {"p": "Well?", "q": "And?", "A": A, "B": "B1 "}
    recipe = stage.recipe(TokenRewind)
    await recipe.read_database()
    ours = await stage.waiting_readers()
    await stage.respond("A", *A3)
    await stage.respond("B", "B1 ")
    await stage.record()
    stage.expire()
    await recipe.attach()
    stage.answer()
    prompts = [Shown("p", "Well?", DONE), Shown("q", "And?", DONE)]
    right = [*prompts, Shown("A", A, DONE), Shown("B", "B1 ", DONE)]
    await ours.must_show(*right)
    assert recipe.shown == []
    row.shows("token R", [], right)


async def test_h12_a_response_that_is_longer_than_retention(stage, row):
    """History begins after the response did, and the loop takes that for the response's beginning.
    (The publishers store nothing, and nothing was recorded: that text is lost. B has no seqs.)"""
    stage.truth["A"] = A
    await stage.publish_response("A", "A1 ", "A2 ")
    await stage.publish("token", "B1 ", rid="B")
    stage.expire()
    await stage.publish_response("A", "A3 ", first=3)
    await stage.publish("token", "B2 ", rid="B")
    recipe = stage.recipe(TokenHistory)
    await recipe.hydrate()
    ours = await stage.readers()
    wrong = [Shown("A", "A3 ", STREAMING), Shown("B", "B2 ", STREAMING)]
    right = [wrong[0]._replace(gaps=((1, 2),)), wrong[1]._replace(status="in progress, not exact")]
    assert sorted(recipe.shown) == wrong
    await ours.must_show(*right)
    answer = await stage.hydrate()
    assert not answer["complete"]
    assert [reason["code"] for reason in answer["reasons"]] == ["not_exact"]
    row.shows("token H", wrong, right)


async def test_h20_a_discontinuity_after_the_hydration(stage, row):
    """Ably drops a delivery and reports it (80020): the recipe ignores the report, and reads
    nothing again."""
    stage.truth["A"] = A
    a = await stage.begin("A")
    await a.write("A1 ")
    recipe = stage.recipe(TokenRewind)
    await recipe.hydrate()
    ours = await stage.readers()
    await recipe.shows(Shown("A", "A1 ", STREAMING))
    with stage.fault("drop_deliveries", code=80020):
        await a.write("A2 ")
    await a.write("A3 ")
    await ours.must_show(Shown("A", A, STREAMING))
    await recipe.shows(Shown("A", "A1 A3 ", STREAMING))
    row.shows("token R", recipe.shown, [Shown("A", A, STREAMING)])


@pytest.mark.parametrize("code", [90008, 40024])
async def test_h21_history_until_the_attach_is_refused(stage, row, code):
    """Ably refuses history up to the attach point (90008 if it is old, 40024 in another region):
    the loop raises, while live tokens are shown."""
    stage.truth["A"] = A
    a = await stage.begin("A")
    await a.write("A1 ", "A2 ")
    recipe = stage.recipe(TokenHistory)
    with stage.fault("refuse_until_attach", code=code):
        await recipe.read_database()
        await recipe.attach()
        ours = await stage.readers()
        await a.write("A3 ")
        await recipe.shows(Shown("A", "A3 ", STREAMING))
        with pytest.raises(AblyException) as caught:
            await recipe.read_history()
        assert int(caught.value.code) == code
        await ours.must_show(Shown("A", A, STREAMING))
    row.shows("token H", recipe.shown, [Shown("A", A, STREAMING)])


async def test_h22_a_publish_is_repeated(stage, row):
    """A publish is acknowledged too late and sent again without an id: the text is appended twice.
    (A seq prevents it; without seq and id, a retry looks like a repeated text.)"""
    stage.truth["A"] = A
    recipe = stage.recipe(TokenRewind)
    await recipe.hydrate()
    ours = await stage.readers()
    await stage.publish_response("A", "A1 ")
    with stage.fault("lose_acks"):
        late = asyncio.create_task(stage.publish("token", "A2 ", rid="A", seq=2))
        await stage.wait_for_event("A", 2)
        late.cancel()
    await stage.another_connection()
    await stage.publish("token", "A2 ", rid="A", seq=2)
    await stage.publish_response("A", "A3 ", first=3, stop=True)
    wrong = Shown("A", "A1 A2 A2 A3 ", STREAMING)
    await recipe.shows(wrong)
    await ours.must_show(Shown("A", A, DONE))
    late = await stage.readers()
    await late.must_show(Shown("A", A, DONE))
    row.shows("token R, H", [wrong], [Shown("A", A, DONE)])


async def test_h23_tokens_come_in_another_order(stage, row):
    """Tokens published over two connections arrive in the order of a region, and history has
    another order. (The local channel server has one region: here, the next token overtakes one for
    all readers.)"""
    stage.truth["A"] = A
    recipe = stage.recipe(TokenRewind)
    await recipe.hydrate()
    ours = await stage.readers()
    await stage.publish_response("A", "A1 ")
    await stage.publish("token", "A3 ", rid="A", seq=3)
    await stage.another_connection()
    await stage.publish("token", "A2 ", rid="A", seq=2)
    await stage.publish("stop", rid="A", seq=4)
    wrong = Shown("A", "A1 A3 A2 ", STREAMING)
    await recipe.shows(wrong)
    await ours.must_show(Shown("A", A, DONE))
    late = await stage.readers()
    await late.must_show(Shown("A", A, DONE))
    row.shows("token R, H", [wrong], [Shown("A", A, DONE)])
