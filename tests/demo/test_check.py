"""The exactness check counts lost and doubled characters, and can fail."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from ably.types.connectionstate import ConnectionState

from api.minting import mint
from localably import LocalAbly
from rehydrate.demo import check
from rehydrate.demo.check import Join, Report, Target, _ably_js, difference
from rehydrate.demo.texts import tokens_of
from waiting import PATIENCE_S

TOKENS = tokens_of("r")
TEXT = "".join(TOKENS)


def report(text, status="completed", seq=None, **more):
    join = Join("rest", [("r", status, text, seq)], [0.01], **more)
    return Report([join], switches=5, responses=3, skipped=[])


def test_the_true_text_has_no_difference():
    assert difference("r", "completed", TEXT, None) == (0, 0)
    assert report(TEXT).good


@pytest.mark.parametrize("at", [0, 1, len(TEXT) // 2, len(TEXT) - 1])
def test_a_dropped_character_is_counted_as_lost(at):
    dropped = TEXT[:at] + TEXT[at + 1 :]
    assert difference("r", "completed", dropped, None)[0] > 0
    assert not report(dropped).good
    assert report(dropped).as_json()["lost"] > 0


@pytest.mark.parametrize("at", [0, 1, len(TEXT) // 2, len(TEXT) - 1])
def test_a_doubled_character_is_counted_as_doubled(at):
    doubled = TEXT[: at + 1] + TEXT[at:]
    assert difference("r", "completed", doubled, None)[1] > 0
    assert not report(doubled).good
    assert report(doubled).as_json()["doubled"] > 0


def test_another_unicode_normal_form_is_a_difference():
    assert "e\u0301" in TEXT, "the text has combining marks"
    assert not report(TEXT.replace("e\u0301", "\u00e9")).good


def test_a_response_in_progress_must_have_all_tokens_up_to_its_seq():
    for seq in (0, 1, 7, len(TOKENS)):
        text = "".join(TOKENS[:seq])
        assert report(text + "!", "in_progress", 0).as_json()["doubled"] > 0
        assert difference("r", "in_progress", text, seq) == (0, 0)
        assert difference("r", "in_progress", text + "x", seq)[1] > 0
    assert report("".join(TOKENS[:7]), "in_progress", 7).good
    assert report("".join(TOKENS[:9]), "in_progress", 7).good, "a message may hold several tokens"


def test_a_missing_token_of_a_response_in_progress_is_lost():
    assert not report("".join(TOKENS[:7]), "in_progress", 8).good
    assert not report("".join(TOKENS[:3] + TOKENS[4:7]), "in_progress", 6).good
    assert not report("".join(TOKENS[:7]) + TOKENS[6], "in_progress", 7).good
    assert not report("".join(TOKENS[1:7]), "in_progress", 5).good


def test_the_missing_end_of_an_interrupted_response_is_lost():
    assert not report(TEXT[:-1], "interrupted").good


def test_a_reader_that_never_saw_the_end_fails_the_report():
    assert not report(TEXT, ended=False).good
    assert report(TEXT, ended=False).as_json()["unended"] == 1


def test_without_interleaving_the_report_fails():
    assert not report(TEXT)._replace(switches=0).good


def test_joins_without_text_fail_the_report():
    assert not Report([Join("rest", [], [0.01])], switches=5, responses=3, skipped=[]).good
    assert not Report([], switches=5, responses=3, skipped=[]).good


def test_sums_are_per_client_and_in_total():
    joins = [
        Join("rest", [("r", "completed", TEXT, None)], [0.010, 0.030]),
        Join("ably-js", [("r", "completed", TEXT + TEXT[-1], None)], [0.020]),
    ]
    result = Report(joins, 5, 3, []).as_json()
    assert (result["joins"], result["characters"]) == (2, 2 * len(TEXT) + 1)
    assert (result["lost"], result["doubled"], result["p50_ms"]) == (0, 1, 20.0)
    assert result["by_client"]["rest"]["doubled"] == 0
    assert result["by_client"]["ably-js"]["doubled"] == 1


def test_a_target_requests_the_largest_page():
    target = Target("http://h", "c", "ai:c", "t", None, None, tls=True)
    assert target.hydrate_url == "http://h/v1/conversations/c?limit=200"


@pytest.mark.skipif(isinstance(_ably_js(), str), reason="needs Node and ably-js")
async def test_joins_by_javascript_end_if_their_parent_ended_before_node_had_started():
    parent = await asyncio.create_subprocess_exec("true")
    await parent.wait()
    join = {"delay_ms": 24 * 3600 * 1000, "way": 1}
    job = {"parent": parent.pid, "modules": str(_ably_js()), "options": {}, "joins": [join]}
    node = await asyncio.create_subprocess_exec(
        *("node", str(Path(check.__file__).with_name("joiner.mjs"))), stdin=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            await node.communicate(json.dumps(job).encode())
    finally:
        if node.returncode is None:
            node.kill()
            await node.wait()
    assert node.returncode == 1


async def test_a_client_that_fails_ends_the_others_and_closes_their_connections(monkeypatch):
    opened, made = [], check._ably

    def open_client(target):
        opened.append(made(target))
        return opened[-1]

    async def never(_request):
        await asyncio.Event().wait()

    monkeypatch.setattr(check, "_ably", open_client)
    service = httpx.AsyncClient(transport=httpx.MockTransport(never))
    async with LocalAbly() as server, service as http:
        token = mint({"*": ["*"]}, key=server.key)
        target = Target("http://x", "c", "ai:c", token, "127.0.0.1", server.port, tls=False)

        async def fail():
            while not (opened and opened[0].connection.state is ConnectionState.CONNECTED):  # noqa: ASYNC110 - the client has no event for it
                await asyncio.sleep(0.01)
            raise ZeroDivisionError

        async def run():
            async with asyncio.TaskGroup() as group:
                group.create_task(check._by_python(target, http, 0, 1))
                group.create_task(fail())

        with pytest.raises(ExceptionGroup):
            await run()
        (client,) = opened
        assert client.connection.state is ConnectionState.CLOSED
        assert client.http._Http__client.is_closed
