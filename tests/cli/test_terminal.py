from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
import subprocess
import sys

import pytest

from participants import publisher_to
from rehydrate.cli.terminal import Screen
from rehydrate.core.event import Event
from rehydrate.follow.event_buffer import FollowEvent
from waiting import PATIENCE_S

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")


def shown(*events):
    out = io.StringIO()
    screen = Screen(out)
    for event in events:
        screen.show(event)
    return out.getvalue()


def follow_event(kind, message_id="r1", **fields):
    event = Event("void" if kind == "again" else kind, message_id, seq=1, **fields)
    return FollowEvent(kind, 1, "x-1", event=event, message_id=message_id)


def snapshot(*messages, reasons=()):
    body = json.dumps({"messages": messages, "reasons": list(reasons)}).encode()
    return FollowEvent("snapshot", 0, "x-0", body=body)


def message(id_, text, status="completed", role="assistant", gaps=()):
    return {"id": id_, "text": text, "status": status, "role": role, "gaps": list(gaps)}


def test_a_header_names_the_message_when_the_output_switches():
    first = snapshot(message("p", "?", role="user"), message("r1", "Once", "in_progress"))
    text = shown(
        first,
        follow_event("token", text=" upon"),
        follow_event("token", "r2", text="Other"),
        follow_event("token", text=" a"),
        follow_event("stop", status="completed"),
    )
    assert text == (
        "user p\n?\nassistant r1  [in_progress]\nOnce upon\n"
        "assistant r2\nOther\nassistant r1\n a\n-- r1 completed\n"
    )


def test_other_events_have_their_own_lines():
    text = shown(
        snapshot(message("r0", "x", "failed", gaps=[[2, 3]]), reasons=[{"detail": "expired"}]),
        follow_event("prompt", "p", text="why?"),
        follow_event("reasoning", text="hm"),
        follow_event("refusal", text="no"),
        follow_event("tool_call", tool_call_id="t", name="add", value=""),
        follow_event("tool_args", tool_call_id="t", text="{}"),
        follow_event("tool_result", tool_call_id="t", name="add", value=[1]),
        follow_event("repair", text="whole"),
        follow_event("again"),
    )
    assert text.splitlines() == [
        "assistant r0  [failed]  missing [[2, 3]]",
        "x",
        "-- incomplete: expired",
        "user p",
        "why?",
        "assistant r1",
        "reasoning: hm",
        "assistant r1",
        "refusal: no",
        '-- r1 tool_call add: ""',
        '-- r1 tool_args t: "{}"',
        "-- r1 tool_result add: [1]",
        "assistant r1  [repaired]",
        "whole",
        "-- messages may have been missed; waiting for a new snapshot",
    ]


async def following(database, server, *argv):
    environment = {
        **os.environ,
        "REHYDRATE_DATABASE_URL": database,
        "ABLY_API_KEY": server.key,
        "ABLY_ENDPOINT": "127.0.0.1",
        "ABLY_PORT": str(server.port),
        "ABLY_TLS": "false",
    }
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rehydrate", "--quiet", "follow", *argv),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


async def test_the_command_prints_a_conversation_until_sigterm(module_database, server):
    conversation = f"t-{secrets.token_hex(4)}"
    async with publisher_to(server, f"ai:{conversation}") as publisher:
        await publisher.stream("r", "はい", stop=False)
        process = await following(module_database, server, conversation, "--json")
        try:
            async with asyncio.timeout(PATIENCE_S):
                first = json.loads(await process.stdout.readline())
                await publisher.stream("r", "!", first=3, start=False)
                received = [json.loads(await process.stdout.readline()) for _ in range(2)]
                process.terminate()
                _, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert first["event"] == "snapshot"
    assert first["data"]["messages"][0]["text"] == "はい"
    assert [each["event"] for each in received] == ["token", "stop"]
    assert (process.returncode, errors) == (0, b"")


async def test_a_closed_pipe_ends_it_quietly(module_database, server):
    conversation = f"t-{secrets.token_hex(4)}"
    async with publisher_to(server, f"ai:{conversation}") as publisher:
        await publisher.stream("r", "ab", stop=False)
        process = await following(module_database, server, conversation)
        try:
            async with asyncio.timeout(PATIENCE_S):
                assert await process.stdout.readline() == b"assistant r  [in_progress]\n"
                process._transport.get_pipe_transport(1).close()
                for seq in range(3, 40):
                    await publisher.publish_message("token", "x", rid="r", seq=seq)
                    await asyncio.sleep(0.01)
                errors = await process.stderr.read()
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert (process.returncode, errors) == (0, b"")


async def test_an_invalid_conversation_id_is_one_line_and_exit_code_2(module_database, server):
    process = await following(module_database, server, "[x")
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.count(b"\n") == 1
    assert b"conversation id" in errors
