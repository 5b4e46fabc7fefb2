"""The doctor reports what is wrong, and suggests a fix."""

from __future__ import annotations

import asyncio

import pytest

from conftest import new_database
from demo.command_line import settings_on
from localably import App, Key, LocalAbly
from rehydrate import History
from rehydrate.cli import doctor
from rehydrate.cli.doctor import examine
from rehydrate.settings import load_settings

SECRET = "geheim-do-not-show"


@pytest.fixture
def examined(monkeypatch, capsys):
    """Runs the doctor on settings; returns its exit code and its findings by name."""

    async def run(**settings):
        with monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            code = await examine()
        out = capsys.readouterr().out
        assert SECRET not in out
        found = {line[:9].strip(): (line[11:16].strip(), line[18:]) for line in out.splitlines()}
        return code, found

    return run


async def test_all_checks_pass(database, ably, examined):
    code, found = await examined(**settings_on(database, ably))
    assert code == 0
    assert [found[what][0] for what in ("settings", "database", "schema", "Ably", "key")] == [
        "ok"
    ] * 5
    assert found["retention"][0] == "?", "there is no message yet"


async def test_a_misspelt_variable_is_named(examined):
    code, found = await examined(REHYDRATE_DATABASE_URI=SECRET)
    assert code == 2
    assert found["variables"] == (
        "?",
        "ignored, unknown: REHYDRATE_DATABASE_URI (is REHYDRATE_DATABASE_URL meant?)",
    )


async def test_a_missing_setting_is_named(examined):
    code, found = await examined(ABLY_API_KEY=f"a.b:{SECRET}")
    assert code == 2
    assert found["settings"][0] == "WRONG"
    assert "REHYDRATE_DATABASE_URL" in found["settings"][1]


async def test_an_unreachable_database(ably, examined):
    url = f"postgres://u:{SECRET}@127.0.0.1:1/x"
    code, found = await examined(**settings_on(url, ably))
    assert code == 1
    assert found["database"][0] == "WRONG"
    assert "REHYDRATE_DATABASE_URL" in found["database"][1]
    assert found["schema"][0] == "?"
    assert found["Ably"][0] == "ok", "the rest is looked at all the same"


async def test_a_missing_schema(postgres, ably, examined):
    async with new_database(postgres.url) as url:
        code, found = await examined(**settings_on(url, ably))
    assert code == 1
    assert found["database"][0] == "ok"
    assert found["schema"][0] == "WRONG"
    assert "rehydrate migrate" in found["schema"][1]


async def test_an_unreachable_ably(database, ably, examined):
    given = settings_on(database, ably) | {"ABLY_PORT": "1"}
    code, found = await examined(**given)
    assert code == 1
    assert found["Ably"][0] == "WRONG"
    assert "ABLY_ENDPOINT" in found["Ably"][1]
    assert found["key"][0] == "?"
    assert found["schema"][0] == "ok"


async def test_a_key_that_ably_does_not_recognise(database, ably, examined):
    name = ably.key.partition(":")[0]
    code, found = await examined(
        **settings_on(database, ably) | {"ABLY_API_KEY": f"{name}:{SECRET}"}
    )
    assert code == 1
    assert (found["Ably"][0], found["key"][0]) == ("ok", "WRONG")
    assert "ABLY_API_KEY" in found["key"][1]


async def test_a_key_without_a_required_operation(database, examined):
    key = f"app.weak:{SECRET}"
    async with LocalAbly(apps=[_app(key, '{"ai:*":["subscribe","history"]}')]) as ably:
        given = settings_on(database, ably) | {"ABLY_API_KEY": key}
        code, found = await examined(**given)
    assert code == 1
    assert found["key"][0] == "WRONG"
    assert "lacks publish" in found["key"][1]


def _app(key, capability):
    made = Key.parse(key, capability)
    return App(made.app_id, keys={made.name: made})


async def test_a_retention_that_channel_history_satisfies(database, ably, examined, monkeypatch):
    await _say_something(database, ably, monkeypatch)
    code, found = await examined(**settings_on(database, ably))
    assert code == 0
    assert found["retention"][0] == "ok"


async def test_a_retention_that_channel_history_does_not_satisfy(
    database, ably, examined, monkeypatch
):
    await _say_something(database, ably, monkeypatch)
    ably.expire()
    code, found = await examined(**settings_on(database, ably))
    assert code == 1
    assert found["retention"][0] == "WRONG"
    assert "REHYDRATE_RETENTION" in found["retention"][1]


async def _say_something(database, ably, monkeypatch):
    """Publish a message, old enough for the retention check."""
    monkeypatch.setattr(doctor, "_LAG_MS", 100)
    async with History(load_settings(**settings_on(database, ably))) as history:
        async with history.respond("c", "r") as response:
            response.write("hello")
        await history.catch_up("c")
    await asyncio.sleep(0.3)


async def test_it_reads_whether_the_channel_still_has_a_message(database, ably):
    async with History(load_settings(**settings_on(database, ably))) as history:
        async with history.respond("c", "r") as response:
            response.write("hello")
        at_ms = history.context.now_ms()
        assert await doctor._shows(history, "ai:c", at_ms)
        assert not await doctor._shows(history, "ai:other", at_ms)
        ably.expire()
        assert not await doctor._shows(history, "ai:c", at_ms)
