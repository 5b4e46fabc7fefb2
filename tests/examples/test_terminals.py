"""The smallest publisher and subscriber, several of each at once, as separate processes."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from demo.command_line import environment, settings_on
from localably import LocalAbly
from providers.conftest import scripted
from scripted_openai.model import answer, answer_text
from waiting import PATIENCE_S

EXAMPLES = Path(__file__).parents[2] / "examples"
QUESTIONS = ("Why do streams break?", "What is a seam?", "Who reads this?")


@asynccontextmanager
async def program(name, *argv, **settings):
    """Run one of the two programs while the block runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        *argv,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(**settings),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def until(process, holds):
    """Read the output of *process* until *holds* is true of it; return it."""
    output = ""
    async with asyncio.timeout(PATIENCE_S):
        while not holds(output):
            line = await process.stdout.readline()
            assert line, (output, await process.stderr.read())
            output += line.decode()
    return output


@pytest.mark.slow
async def test_subscribers_assemble_interleaved_answers(database):
    async with LocalAbly() as ably, AsyncExitStack() as running:
        model = running.enter_context(scripted())
        model.endpoint.answer, model.endpoint.pace_s = answer, 0.02
        settings = settings_on(database, ably) | {
            "OPENAI_API_KEY": "scripted",
            "OPENAI_BASE_URL": model.settings["base_url"],
        }
        subscribers = [
            await running.enter_async_context(program("subscriber.py", **settings))
            for _ in range(2)
        ]
        for each in subscribers:
            await until(each, lambda output: "0 messages so far" in output)
        publishers = [
            await running.enter_async_context(program("publisher.py", question, **settings))
            for question in QUESTIONS
        ]
        for each in publishers:
            await until(each, lambda output: output.endswith(" completed\n"))
        for each in subscribers:
            output = await until(
                each, lambda output: all(answer_text(q) in output for q in QUESTIONS)
            )
            assert output.count(" completed\n") == 3
            assert all(f"? {question}\n" in output for question in QUESTIONS)
        late = await running.enter_async_context(program("subscriber.py", **settings))
        await until(late, lambda output: "6 messages so far" in output)


@pytest.mark.slow
async def test_a_program_without_settings_names_the_missing_one():
    async with program("subscriber.py") as process:
        _, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 1
    assert b"REHYDRATE_DATABASE_URL" in err


def test_the_example_environment_names_every_variable_of_the_chat_and_no_secret():
    from chat_backend.settings import ChatSettings  # noqa: PLC0415 - of this test alone

    text = (EXAMPLES / ".env.example").read_text()
    for name in ChatSettings.model_fields:
        assert f"CHAT_{name.upper()}=" in text
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ABLY_API_KEY", "REHYDRATE_DATABASE_URL"):
        assert f"{name}=" in text
    assert "\nCONVERSATION" in text.replace("#", "")
