"""H24 to H26: an agent that restarts, and the prompts that were sent in the meantime."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from holes.recipes import ResumingAgent
from waiting import PATIENCE_S


@pytest.fixture
async def agents(stage):
    """Agents that use the recipe and share one disk; they end with the test."""
    disk, alive = {}, []

    def make(work):
        made = ResumingAgent(stage.server, stage.channel, disk, work)
        alive.append(made)
        return made

    yield make
    for each in alive:
        await each.crash()


async def ask(stage, *ids):
    for id_ in ids:
        await stage.publish("user-input", {"promptId": id_, "text": f"{id_}?"}, id_=id_)
        await asyncio.sleep(0.002)  # the next millisecond


async def answered(stage, answers, *, most=99):
    """Start one of our agents, which dies after *most* prompts; return what it answers."""
    async with aclosing(stage.history.unanswered(stage.id)) as prompts:
        async for prompt in prompts:
            async with stage.history.respond(
                stage.id, f"to {prompt.id}", prompt_id=prompt.id
            ) as response:
                response.write(prompt.text)
            answers.append(prompt.id)
            if len(answers) == most:
                return


async def test_h24_the_last_prompt_is_answered_again(stage, row, agents):
    """History since the last prompt's timestamp begins with that prompt: each restart answers it
    again."""
    theirs, ours = [], []

    async def work(prompt):
        theirs.append(prompt)

    await ask(stage, "P1", "P2")
    for _ in range(3):
        agent = agents(work)
        await agent.start()
        await agent.resume()
        await agent.crash()
        await answered(stage, ours)
    assert theirs == ["P1", "P2", "P2", "P2"]
    assert ours == ["P1", "P2"]
    row.shows("resuming agent", f"answers {', '.join(theirs)}", f"answers {', '.join(ours)}")


async def test_h25_prompts_are_skipped_permanently(stage, row, agents):
    """While the backlog P1, P2 is processed, P3 arrives live and moves the checkpoint; then the
    agent crashes: P1 and P2 are never answered."""
    theirs, ours = [], []
    done = asyncio.Event()

    async def work(prompt):
        if prompt != "P3" and not done.is_set():
            await asyncio.Event().wait()
        theirs.append(prompt)
        done.set()

    await ask(stage, "P1", "P2")
    agent = agents(work)
    await agent.start()
    agent.spawn(agent.resume())
    await agent.resuming.wait()
    await answered(stage, ours, most=1)
    await ask(stage, "P3")
    await asyncio.wait_for(done.wait(), PATIENCE_S)
    await agent.crash()
    theirs.clear()
    agent = agents(work)
    await agent.start()
    await agent.resume()
    await answered(stage, ours)
    assert theirs == ["P3"]
    assert ours == ["P1", "P2", "P3"]
    row.shows("resuming agent", "answers P3, P3", f"answers {', '.join(ours)}")


async def test_h26_prompts_are_answered_out_of_order(stage, row, agents):
    """A prompt that arrives live is processed at once, before the backlog that was sent earlier."""
    theirs, ours = [], []
    live = asyncio.Event()

    async def work(prompt):
        if prompt == "P2":
            await live.wait()
        theirs.append(prompt)
        if prompt == "P3":
            live.set()

    await ask(stage, "P1", "P2")
    agent = agents(work)
    await agent.start()
    resuming = agent.spawn(agent.resume())
    await agent.resuming.wait()
    await answered(stage, ours, most=1)
    await ask(stage, "P3")
    await asyncio.wait_for(resuming, PATIENCE_S)
    await answered(stage, ours)
    assert theirs == ["P1", "P3", "P2"]
    assert ours == ["P1", "P2", "P3"]
    row.shows("resuming agent", f"answers {', '.join(theirs)}", f"answers {', '.join(ours)}")
