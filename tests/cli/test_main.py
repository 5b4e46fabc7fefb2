"""The command line, from the point of view of its user."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
from importlib.metadata import version

import pytest

from demo.command_line import Command, Ran, ran, settings_on
from localably import LocalAbly
from rehydrate import History, NewMessage
from rehydrate.cli.main import main
from rehydrate.settings import load_settings

SECRET = "geheim-do-not-show"
NOISY = ("ably", "httpx", "httpcore", "alembic")
COMMANDS = (
    "config",
    "demo",
    "doctor",
    "erase",
    "hydrate",
    "local-ably",
    "migrate",
    "replay",
    "serve",
)
GOOD = {
    "REHYDRATE_DATABASE_URL": f"postgres://u:{SECRET}@127.0.0.1:1/x",
    "ABLY_API_KEY": f"app.key:{SECRET}",
}


@pytest.fixture
def here(capsys, monkeypatch):
    """Runs a command in this process with the given settings only, and restores all state."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    levels = {each: each.level for each in map(logging.getLogger, NOISY)}
    for name in list(os.environ):
        if name.startswith(("REHYDRATE_", "ABLY_")):
            monkeypatch.delenv(name)

    def run(*argv, **settings):
        with monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            try:
                code = main(argv)
            except SystemExit as ended:
                code = ended.code
        return Ran(code, *capsys.readouterr())

    yield run
    root.handlers[:], root.level = before
    for logger, level in levels.items():
        logger.setLevel(level)


def one_line(result, code):
    """Assert one line on standard error, without secret or traceback, and that exit code."""
    assert result.code == code, result.err
    assert not result.out
    (line,) = result.err.splitlines()
    assert line.startswith("rehydrate: ")
    assert SECRET not in line
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_has_help(here, command):
    result = here(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"usage: rehydrate {command} ")
    flags = re.findall(r"^  (--?[\w-]+|[a-z]\w+)", result.out, re.MULTILINE)
    assert "-h" in flags
    for flag in flags:
        explained = re.search(
            rf"^  {flag}\b.*?\s{{2,}}(\S.*)", result.out, re.MULTILINE | re.DOTALL
        )
        assert explained, f"{command} {flag} is not explained"


def test_help_lists_the_commands_and_the_most_important_settings(here):
    result = here("--help")
    assert result.code == 0
    listed = re.findall(r"^    ([a-z-]+) ", result.out, re.MULTILINE)
    assert set(COMMANDS) <= set(listed)
    assert "agent" not in listed, "the demo's own"
    for name in ("REHYDRATE_DATABASE_URL", "ABLY_API_KEY", "REHYDRATE_SERVICE_KEYS"):
        assert name in result.out


def test_no_command_and_an_unknown_command_are_usage_errors(here):
    for argv in ((), ("nonsense",), ("serve", "--nonsense")):
        result = here(*argv)
        assert result.code == 2
        assert result.err.startswith("usage: rehydrate")
        assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("argv", "missing"),
    [
        (("serve",), "REHYDRATE_DATABASE_URL"),
        (("serve",), "ABLY_API_KEY"),
        (("migrate",), "REHYDRATE_DATABASE_URL"),
        (("hydrate", "c"), "REHYDRATE_DATABASE_URL"),
        (("hydrate", "c"), "ABLY_API_KEY"),
    ],
)
def test_a_missing_setting_is_named_with_exit_code_2(here, argv, missing):
    given = {name: value for name, value in GOOD.items() if name != missing}
    assert f"{missing} is not set" in one_line(here(*argv, **given), 2)


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_the_database_of_another_program_is_not_used(here, command):
    other = {"DATABASE_URL": f"postgres://u:{SECRET}@127.0.0.1:1/theirs", "SERVICE_KEYS": SECRET}
    line = one_line(here(command, **other, ABLY_API_KEY=GOOD["ABLY_API_KEY"]), 2)
    assert "REHYDRATE_DATABASE_URL is not set" in line


async def test_a_misspelt_variable_is_reported_on_one_line_without_its_value():
    result = await ran("migrate", REHYDRATE_DATABASE_URI=SECRET)
    warned, failed = result.err.splitlines()
    assert "REHYDRATE_DATABASE_URI (is REHYDRATE_DATABASE_URL meant?)" in warned
    assert failed.startswith("rehydrate: REHYDRATE_DATABASE_URL is not set")
    assert SECRET not in result.err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REHYDRATE_DATABASE_URL", f"mysql://u:{SECRET}@h/x"),
        ("REHYDRATE_DATABASE_URL", f"postgres://u:{SECRET}@h/x?sslmode=odd"),
        ("REHYDRATE_DATABASE_URL", f"postgres://u:{SECRET}%@h/x"),
        ("ABLY_API_KEY", SECRET),
        ("REHYDRATE_ABLY_KEYS", f"app.key:{SECRET},{SECRET}"),
        ("ABLY_PORT", "0"),
        ("ABLY_TLS", "perhaps"),
        ("REHYDRATE_PORT", "70000"),
        ("REHYDRATE_PORT", "http"),
        ("REHYDRATE_HOST", "no.such.host.invalid"),
        ("REHYDRATE_CHANNEL_TEMPLATE", "ai"),
        ("REHYDRATE_RETENTION", "2"),
        ("REHYDRATE_LEASE_SECONDS", "-1"),
    ],
)
def test_a_bad_setting_is_named_on_one_line_without_its_secret(here, name, value):
    given = {"REHYDRATE_PORT": "0", **GOOD, name: value}
    assert name in one_line(here("--quiet", "serve", **given), 2)


async def test_a_port_in_use_is_reported():
    async with LocalAbly() as other:
        result = await ran("--quiet", "serve", "--port", str(other.port), **GOOD)
    line = one_line(result, 2)
    assert "REHYDRATE_PORT" in line
    assert str(other.port) in line


def test_an_invalid_conversation_id_is_reported_without_a_query(here):
    for wrong in ("", "a*", "[a", ":a", "x" * 129, "a\n"):
        assert "conversation" in one_line(here("hydrate", wrong, **GOOD), 2)


def test_an_unreachable_database_is_reported_with_exit_code_1(here):
    assert "Postgres" in one_line(here("hydrate", "c", **GOOD), 1)
    assert "Postgres" in one_line(here("migrate", **GOOD), 1)


async def test_migrate_is_idempotent(postgres, ably):
    from conftest import new_database  # noqa: PLC0415 - the suite's own

    async with new_database(postgres.url) as url:
        given = settings_on(url, ably)
        assert "rehydrate migrate" in one_line(await ran("hydrate", "c", **given), 1)
        for _ in range(2):
            result = await ran("migrate", **given)
            assert (result.code, result.out) == (0, "the schema is at head\n")
            assert "Traceback" not in result.err
        assert (await ran("hydrate", "c", **given)).code == 0


async def test_hydrate_prints_the_messages(configured):
    async with History(load_settings(**configured)) as history:
        stored = [
            NewMessage("p-1", "user", text="むかしむかし?"),
            NewMessage("r-1", "assistant", text="e\u0301 👨‍👩‍👧‍👦", prompt_id="p-1"),
        ]
        await history.store_messages("c", stored)
    result = await ran("hydrate", "c", **configured)
    assert result.code == 0
    assert result.out == "user p-1\nむかしむかし?\n\nassistant r-1\ne\u0301 👨‍👩‍👧‍👦\n\n"
    result = await ran("hydrate", "c", "--json", **configured)
    answer = json.loads(result.out.splitlines()[-1])
    assert [m["id"] for m in answer["messages"]] == ["p-1", "r-1"]
    assert answer["complete"]
    answer = json.loads((await ran("hydrate", "c", "--json", "--limit", "1", **configured)).out)
    assert [m["id"] for m in answer["messages"]] == ["r-1"]


async def test_hydrate_of_an_unknown_conversation_prints_nothing(configured):
    result = await ran("hydrate", "nobody", **configured)
    assert (result.code, result.out.strip()) == (0, "")


async def test_unencodable_texts_are_printed_escaped(configured):
    async with History(load_settings(**configured)) as history:
        await history.store_messages("c", [NewMessage("r-1", "assistant", text="a\ud83db")])
        await history.store_messages("d", [NewMessage("r-1", "assistant", text="é😀")])
    result = await ran("hydrate", "c", **configured)
    assert result.code == 0, result.err
    assert "a\\ud83db" in result.out
    result = await ran("hydrate", "d", **configured, PYTHONIOENCODING="ascii")
    assert result.code == 0, result.err
    assert "\\xe9\\U0001f600" in result.out


async def test_a_closed_pipe_does_not_print_a_traceback(configured):
    async with History(load_settings(**configured)) as history:
        text = "x" * 200_000
        await history.store_messages("c", [NewMessage("r-1", "assistant", text=text)])
    async with Command("hydrate", "c", **configured) as command:
        assert await command.line() == b"assistant r-1\n"
        command.hear_no_more()
        result = await command.end()
    assert result.code in {0, 1}
    assert "Traceback" not in result.err


async def test_hydrate_prints_why_an_answer_is_incomplete(database, ably):
    given = settings_on(database, ably)
    async with History(load_settings(**given)) as history:
        await history.store_messages("c", [NewMessage("p-1", "user", text="hello")])
    with ably.faults.on("fail_history", status=503):
        result = await ran("hydrate", "c", **given)
    assert result.code == 0
    assert "hello" in result.out
    assert "not complete: Ably did not answer in time" in result.out


@pytest.mark.parametrize("module", ["rehydrate", "rehydrate.cli.main"])
async def test_it_runs_as_a_module(module):
    result = await ran("serve", module=module)
    assert "REHYDRATE_DATABASE_URL is not set" in one_line(result, 2)


async def test_local_ably_prints_when_it_is_ready_and_not_a_given_key():
    argv = ("local-ably", "--port", "0", "--key", f"app.key:{SECRET}")
    async with Command(*argv) as command:
        url = await command.ready()
        result = await command.terminated()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
    assert result.code == 0
    assert SECRET not in result.out + result.err


def test_a_malformed_key_of_local_ably_is_reported(here):
    result = here("local-ably", "--port", "0", "--key", SECRET)
    assert result.code == 2
    assert SECRET not in result.err
    assert "appId.keyId:secret" in result.err


@pytest.mark.parametrize("port", ["-1", "65536", "99999"])
def test_a_port_of_local_ably_out_of_range_is_one_line_and_exit_code_2(here, port):
    result = here("local-ably", "--port", port)
    assert (result.code, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert line.endswith(f"the port must be 0 to 65535, not {port}")


@pytest.mark.parametrize("joins", ["0", "-3", "many"])
def test_a_number_of_joins_that_checks_nothing_is_refused(here, joins):
    result = here("demo", "--check", "--joins", joins)
    assert (result.code, result.out) == (2, "")
    assert "--joins" in result.err
    assert "Traceback" not in result.err


async def test_ctrl_c_prints_no_traceback(configured):
    async with Command("serve", **configured) as command:
        await command.ready()
        command.send(signal.SIGINT)
        result = await command.end()
    assert result.code in {0, 130}
    assert "Traceback" not in result.err


def test_the_version_and_the_settings_are_printed(here):
    assert here("--version").out == f"rehydrate {version('rehydrate')}\n"
    secret = "a-service-key-that-is-secret"
    result = here("config", REHYDRATE_SERVICE_KEYS=secret, REHYDRATE_PROT="1")
    assert result.code == 0
    assert re.search(r"^REHYDRATE_SERVICE_KEYS +\(hidden\)$", result.out, re.MULTILINE)
    assert re.search(r"^REHYDRATE_PORT +8000  \(default\)$", result.out, re.MULTILINE)
    assert "unknown: REHYDRATE_PROT (is REHYDRATE_PORT meant?)" in result.out
    assert secret not in result.out + result.err
