"""How many statements a request costs, counted where they are sent to Postgres."""

from __future__ import annotations

import secrets
from collections import Counter
from contextlib import asynccontextmanager

import httpx
import pytest

from api.minting import READER, bearer, mint
from localably import LocalAbly
from participants import settings_for
from rehydrate import context
from rehydrate.history import History
from rehydrate.postgres import statements
from rehydrate.postgres.pool import Session
from rehydrate.record.import_messages import NewMessage

NAMES = {
    sql: name for name, sql in vars(statements).items() if name.isupper() and isinstance(sql, str)
}


@pytest.fixture(scope="module")
async def history(module_database):
    async with LocalAbly() as server, History(settings_for(module_database, server)) as made:
        yield made


@pytest.fixture
def conversation():
    return f"c-{secrets.token_hex(5)}"


@pytest.fixture
def sent(conversation, monkeypatch):
    """The statements about the conversation, by name; those of background tasks are others."""
    found = Counter()

    def counting(method):
        send = getattr(Session, method)

        async def counted(self, sql, *arguments):
            if conversation in arguments:
                found[NAMES.get(sql, "another")] += 1
            return await send(self, sql, *arguments)

        monkeypatch.setattr(Session, method, counted)

    counting("fetch")
    counting("execute")
    return found


@asynccontextmanager
async def client_of(history):
    transport = httpx.ASGITransport(history.app())
    token = mint(READER, key=history.settings.required_ably_key())
    async with httpx.AsyncClient(
        transport=transport, base_url="http://service", headers=bearer(token)
    ) as client:
        yield client


async def get(history, conversation):
    async with client_of(history) as client:
        answer = await client.get(f"/v1/conversations/{conversation}")
    answer.raise_for_status()
    return answer.json()


async def test_the_first_get_of_a_new_conversation_loads_it_once(history, conversation, sent):
    assert (await get(history, conversation))["messages"] == []
    assert sent == {"ROW": 1, "LOAD": 1}  # the access check needs the channel of the row


async def test_a_get_of_a_known_conversation_is_one_statement(history, conversation, sent):
    await history.store_messages(conversation, [NewMessage("m", "user", text="hi")])
    await get(history, conversation)
    sent.clear()
    assert len((await get(history, conversation))["messages"]) == 1
    assert sent == {"LOAD": 1}


async def test_two_gets_of_a_new_conversation_within_a_second_look_for_its_row_once(
    history, conversation, sent, monkeypatch
):
    monkeypatch.setattr(context, "ABSENT_FOR_S", 60.0)  # a busy machine needs more than a second
    await get(history, conversation)
    await get(history, conversation)
    assert sent == {"ROW": 1, "LOAD": 2}


async def test_a_replay_reads_the_row_and_the_response(history, conversation, sent):
    async with history.respond(conversation, "r") as response:
        response.write("text")
    sent.clear()
    await history.replay(conversation, "r", speed=0)
    assert sent["ROW"] == 1
    assert sent["LOAD"] == 0


async def test_verifying_loads_no_page_of_its_own(history, conversation, sent):
    async with history.respond(conversation, "r") as response:
        response.write("text")
    await history.catch_up(conversation)
    sent.clear()
    await history.verify(conversation)
    assert sent["ROW"] == 1
    assert sent["LOAD"] == 1  # the recorder's, which needs what is open


async def test_erasing_reads_the_row_and_what_is_open_at_once(history, conversation, sent):
    await history.store_messages(conversation, [NewMessage("m", "user", text="hi")])
    sent.clear()
    await history.erase(conversation)
    assert sent["ROW"] == 0
    assert sent["LOAD"] == 1  # of one finished message, and of an open stream that is erased, too
