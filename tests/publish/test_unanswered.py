"""Unanswered prompts across restarts of an agent, with Postgres and the channel server."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing

import pytest

from participants import history_over
from rehydrate.ports import Outgoing
from rehydrate.publish import unanswered as unanswered_module
from rehydrate.publish.unanswered import unanswered
from rehydrate.record.catch_up import Recorded
from rehydrate.record.import_messages import NewMessage
from tcp_proxy import TcpProxy
from waiting import PATIENCE_S

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")


@pytest.fixture
async def history(module_database, server):
    async with history_over(module_database, server) as made:
        yield made


@pytest.fixture
async def other(module_database, server):
    """A second agent, as in another process."""
    async with history_over(module_database, server) as made:
        yield made


async def send(publisher, *ids):
    for id_ in ids:
        await publisher.publish_message("user-input", {"promptId": id_, "text": f"{id_}?"}, id_=id_)


async def answer(history, conversation, prompt):
    async with history.respond(conversation, f"r-{prompt.id}", prompt_id=prompt.id) as response:
        response.write(f"about {prompt.text}")


async def ids(prompts):
    async with aclosing(prompts):
        return [prompt.id async for prompt in prompts]


async def test_prompts_without_a_response_are_yielded_in_order_each_once(
    history, conversation, publisher
):
    await history.store_messages(conversation, [NewMessage("p0", "user", text="stored")])
    await send(publisher, "p1", "p2", "p3")
    await publisher.publish_message("start", rid="r2", seq=0, promptId="p2")
    found = [prompt async for prompt in history.unanswered(conversation)]
    assert [(each.id, each.text) for each in found] == [
        ("p0", "stored"),
        ("p1", "p1?"),
        ("p3", "p3?"),
    ]
    assert all(each.sent_ms for each in found)


async def test_an_agent_that_dies_in_the_middle_answers_each_prompt_once_after_its_restart(
    history, other, conversation, publisher
):
    await send(publisher, "p1", "p2", "p3")
    async with aclosing(history.unanswered(conversation)) as prompts:
        async for prompt in prompts:
            await answer(history, conversation, prompt)
            if prompt.id == "p2":
                break
    assert await ids(other.unanswered(conversation)) == ["p3"]
    hydrated = await other.hydrate(conversation)
    assert [m["id"] for m in hydrated.messages if m["role"] == "assistant"] == ["r-p1", "r-p2"]


async def test_prompts_of_one_millisecond_are_yielded_once_and_in_order_across_restarts(
    history, other, conversation, publisher
):
    wanted = [f"p{n}" for n in range(4)]
    batch = [Outgoing("user-input", {"promptId": id_, "text": "?"}, id_) for id_ in wanted]
    batch = [each._replace(id=f"ask:{n}") for n, each in enumerate(batch)]
    await history._channel.publish(f"ai:{conversation}", batch)
    async with aclosing(history.unanswered(conversation)) as prompts:
        async for prompt in prompts:
            assert prompt.id == wanted.pop(0)
            await answer(history, conversation, prompt)
            if prompt.id == "p1":
                break
    assert await ids(other.unanswered(conversation)) == wanted == ["p2", "p3"]


async def test_a_prompt_whose_claim_was_not_answered_is_yielded_at_once(
    module_database, server, conversation, publisher
):
    await send(publisher, "p1")
    async with TcpProxy(module_database) as proxy, history_over(proxy.url, server) as agent:
        await agent.catch_up(conversation)
        plain, claims = agent._store.claim, []

        async def claim(*terms):
            if not claims:
                proxy.lose_answer_to(b"COMMIT")
            claims.append(terms)
            return await plain(*terms)

        agent._store.claim = claim
        async with asyncio.timeout(PATIENCE_S):  # less than a claim lasts
            assert await ids(agent.unanswered(conversation)) == ["p1"]
        assert proxy.answers_lost == 1


async def test_a_prompt_that_is_erased_while_it_is_claimed_does_not_end_the_iterator(
    history, conversation, publisher
):
    await send(publisher, "p1")
    await history.catch_up(conversation)
    plain, erased = history._store.message, []

    async def message(*ids_):
        if not erased:
            erased.append(ids_)
            await history.erase(conversation)
            await send(publisher, "p2")
            await history.catch_up(conversation)
        return await plain(*ids_)

    history._store.message = message  # between the claim and a read of its own
    async with aclosing(history.unanswered(conversation)) as prompts:
        assert (await anext(prompts)).id == "p1"
    assert not erased


async def test_two_agents_at_once_never_get_the_same_prompt(
    history, other, conversation, publisher
):
    wanted = [f"p{n}" for n in range(12)]
    await send(publisher, *wanted)
    taken = []

    async def work(agent):
        async for prompt in agent.unanswered(conversation):
            taken.append(prompt.id)
            await answer(agent, conversation, prompt)

    await asyncio.gather(work(history), work(other))
    assert sorted(taken) == sorted(wanted)


async def test_a_claimed_prompt_is_not_yielded_to_another_agent_until_released(
    history, other, conversation, publisher
):
    await send(publisher, "p1", "p2")
    async with aclosing(history.unanswered(conversation)) as prompts:
        assert (await anext(prompts)).id == "p1"
        assert await ids(other.unanswered(conversation)) == ["p2"]
    assert await ids(other.unanswered(conversation)) == ["p1", "p2"]


async def test_the_claim_of_a_dead_agent_expires_and_that_of_a_living_one_does_not(
    history, conversation, publisher
):
    await send(publisher, "p1")
    ctx, record = history.context, history.catch_up
    await history.catch_up(conversation)
    assert await history._store.claim(conversation, "dead", 0.4, [])  # and it is never renewed
    async with aclosing(unanswered(ctx, conversation, record=record, lease_s=0.4)) as prompts:
        assert await anext(prompts, None) is None
    await asyncio.sleep(0.5)
    async with aclosing(unanswered(ctx, conversation, record=record, lease_s=0.4)) as prompts:
        assert (await anext(prompts)).id == "p1"
        await asyncio.sleep(1)
        assert await ids(unanswered(ctx, conversation, record=record)) == []


async def test_a_live_prompt_waits_behind_earlier_ones(history, conversation, publisher):
    await send(publisher, "p1", "p2")
    found = []
    async with aclosing(history.unanswered(conversation, wait=True)) as prompts:
        async with asyncio.timeout(PATIENCE_S):
            async for prompt in prompts:
                found.append(prompt.id)
                if prompt.id == "p1":
                    await send(publisher, "p3")
                await answer(history, conversation, prompt)
                if prompt.id == "p3":
                    await send(publisher, "p4")
                if prompt.id == "p4":
                    break
    assert found == ["p1", "p2", "p3", "p4"]


async def test_a_prompt_left_without_a_response_is_not_yielded_twice_in_a_row(
    history, conversation, publisher
):
    await send(publisher, "p1")
    async with aclosing(history.unanswered(conversation, wait=True)) as prompts:
        assert (await anext(prompts)).id == "p1"
        nothing = asyncio.ensure_future(anext(prompts))
        await asyncio.sleep(0.5)
        assert not nothing.done()
        await send(publisher, "p2")
        async with asyncio.timeout(PATIENCE_S):
            assert (await nothing).id == "p2"


async def test_the_number_of_remembered_prompts_is_bounded(
    history, conversation, publisher, monkeypatch
):
    monkeypatch.setattr(unanswered_module, "_MAX_OFFERED", 2)
    await send(publisher, "p1", "p2", "p3")
    async with aclosing(history.unanswered(conversation)) as prompts:
        found = [(await anext(prompts)).id for _ in range(4)]
    assert found == ["p1", "p2", "p3", "p1"]


async def test_a_prompt_is_yielded_though_the_recorder_gives_way_to_an_earlier_read(
    history, conversation, publisher
):
    """The other recorder has read the channel before the prompt, and then moves the watermark."""
    await send(publisher, "p1")
    tries = []

    async def record(id_):
        tries.append(id_)
        if len(tries) == 1:
            return Recorded(0, Counter(), moved=False)
        return await history.catch_up(id_)

    assert await ids(unanswered(history.context, conversation, record=record)) == ["p1"]
    assert len(tries) == 2
