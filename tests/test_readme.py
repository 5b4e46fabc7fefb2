"""The README is correct, and its code runs as shown."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys

import httpx
from fastapi import FastAPI

from api.minting import READER, mint
from api.serving import served, served_beside
from api.standin import StandIn
from demo.command_line import environment, settings_on
from journeys.snippets import README, ROOT, block, blocks, region
from js.packages import install, needs_node, run
from participants import settings_for
from rehydrate import History
from rehydrate.api.app import create_app
from rehydrate.api.auth.access import Access
from rehydrate.api.webhooks import WebhookSenders
from rehydrate.cli.main import _parser
from rehydrate.settings import Settings
from waiting import PATIENCE_S


def table(head):
    """Return the rows of the table whose first column is *head*, as lists of cells."""
    begins = re.search(rf"^\| {head} \|.*\n\|[-|]+\|\n", README, re.MULTILINE).end()
    rows = README[begins:].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


def test_every_code_block_has_a_test():
    assert len(blocks("python")) == 3
    assert len(blocks("js")) == 1
    assert len(blocks("tsx")) == 1
    assert README.count("```") == 2 * (5 + 2), "and the picture, and what to type"


def test_the_example_is_short_and_runs(database, tmp_path):
    code = block("python", "asyncio.run(main())")
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "rehydrate",
            "--quiet",
            "local-ably",
            "--port",
            "0",
            "--key",
            "a.b:c",
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        port = server.stdout.readline().strip().rpartition(":")[2]
        given = {"REHYDRATE_DATABASE_URL": database, "ABLY_API_KEY": "a.b:c", "ABLY_PORT": port}
        ran = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(**given, ABLY_ENDPOINT="127.0.0.1", ABLY_TLS="false"),
            cwd=tmp_path,
            check=False,
        )
    finally:
        server.terminate()
        server.communicate(timeout=PATIENCE_S)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "Once upon a time\n"
    assert ran.stderr == ""


async def test_the_embedded_router_opens_serves_and_closes(database, ably, monkeypatch):
    for name, value in settings_on(database, ably).items():
        monkeypatch.setenv(name, value)
    space = {}
    exec(compile(block("python", "by_cookie"), "README.md", "exec"), space)
    pool = space["history"]._store._readers
    assert pool._pool is None, "not open yet"
    where = "/history/v1/conversations/conv-42"
    with served(space["app"]) as url:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
            stranger = await http.get(where)
            reader = await http.get(
                where, headers={"cookie": "session=session-of-a-user-with-access"}
            )
        assert pool._pool is not None
    assert pool._pool is None, "closed with the app"
    assert (stranger.status_code, stranger.json()["code"]) == (403, "forbidden")
    assert reader.status_code == 200
    assert reader.json()["messages"] == []


def test_the_clients_match_their_source_files():
    python = region("service/rehydrate/demo/reader.py", "join")
    assert block("python", "async def show(").strip() == python.strip()
    (react,) = blocks("tsx")
    assert react.strip() == region("examples/react-ably/src/Chat.tsx", "chat").strip()
    for code in (*blocks("js"), react):
        assert len([line for line in code.splitlines() if line.strip()]) <= 20


@needs_node
async def test_the_javascript_example_shows_a_conversation(database, ably, tmp_path):
    install(tmp_path)
    (code,) = blocks("js")
    app, settings = FastAPI(), settings_for(database, ably)
    app.include_router(History(settings).router(authorize=lambda *_: True), prefix="/history")
    given = {"token": mint(READER, key=ably.key), "port": ably.port, "endpoint": "127.0.0.1"}
    async with History(settings) as history, served_beside(app) as url:
        async with history.respond("conv-42", "r") as response:
            response.write("Once upon a time")
        (tmp_path / "example.mjs").write_text(
            code.replace("authUrl: '/ably-token'", f"...{json.dumps(given)}, tls: false").replace(
                "'/history", f"'{url}/history"
            )
            + "\njoined.subscribe(() => joined.status === 'live' && process.exit());\n"
        )
        output = await asyncio.to_thread(run, "node", "example.mjs", cwd=tmp_path)
    assert output.splitlines()[-1] == "live [ 'Once upon a time' ]"


def test_all_settings_are_listed_with_their_defaults():
    rows = {name: row for row in table("variable") for name in quoted(row[0])}
    fields = {field.validation_alias: field for field in Settings.model_fields.values()}
    assert rows.keys() == fields.keys()
    for name, row in rows.items():
        default = fields[name].get_default(call_default_factory=False)
        if name in ("REHYDRATE_PORT", "REHYDRATE_HOST", "REHYDRATE_CHANNEL_TEMPLATE"):
            assert str(default) in quoted(row[1]), name
        assert row[2], f"{name} is not explained"


def test_all_commands_are_listed_with_their_options():
    actions = next(each for each in _parser()._actions if each.choices)
    of_the_demo = ("agent", "example")
    commands = {n: each for n, each in actions.choices.items() if n not in of_the_demo}
    rows = {quoted(row[0])[0]: row[1] for row in table("command")}
    assert {line.split()[1] for line in rows} == commands.keys()
    for line, does in rows.items():
        assert does
        words = re.findall(r"--[\w-]+", line)
        known = commands[line.split()[1]]._option_string_actions
        assert set(words) <= known.keys(), line


def test_all_calls_are_listed():
    access, announcers = Access(service_keys=["k"]), WebhookSenders(["a.b:c"])
    app = create_app(StandIn(), access, announcers=announcers, inspector=object(), admin=object())
    served_calls = {
        (method.upper(), re.sub(r"\{\w+\}", "{}", path))
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    listed = set()
    for row in table("call"):
        for call in quoted(row[0]):
            method, _, path = call.rpartition(" ")
            path = re.sub(r"\{\w+\}", "{}", path.partition("?")[0])
            listed.add((method or "GET", path))
    # the document does not speak of itself, nor of pages
    ours = {("GET", "/openapi.json"), ("GET", "/ui"), ("GET", "/client.js")}
    assert listed - ours == served_calls


def test_each_law_names_an_existing_test():
    for row in table("law"):
        for path in quoted(row[1]):
            assert (ROOT / path).exists(), path


def test_make_targets_and_links_exist():
    targets = re.findall(r"^([a-z-]+):.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= set(targets)
    for link in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / link).exists(), link
