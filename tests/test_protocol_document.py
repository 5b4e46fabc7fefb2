"""docs/protocol.md names what the code reads and sends, and nothing else."""

from __future__ import annotations

import ast
import asyncio
import json
import re
from pathlib import Path
from typing import get_args

import pytest
from fastapi import FastAPI

from laws.memory import MemoryChannel, MemoryStore, Posted, memory_context
from rehydrate import errors
from rehydrate.api import answers, conversations, schemas
from rehydrate.core import ai_transport, appends, codecs, wire
from rehydrate.core.client_view import View
from rehydrate.core.event import STATUSES, ChannelMessage, Event, Kind
from rehydrate.core.message import MessageState, Owner
from rehydrate.core.text.content import MAX_CHARACTERS, MAX_EVENTS, MAX_SEQ, MAX_STEPS
from rehydrate.core.text.versioned_messages import MAX_VERSIONED
from rehydrate.core.timeline import MAX_OPEN
from rehydrate.follow.event_buffer import FollowEvent
from rehydrate.hydrate.hydrate import hydrate

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/protocol.md").read_text()
SERVICE = ROOT / "service/rehydrate"
KINDS = set(get_args(Kind))


def rows(mark):
    """The rows of the table between ``<!-- mark -->`` and its end, as cells."""
    table = TEXT.partition(f"<!-- {mark} -->\n")[2].partition("\n<!-- /")[0]
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()]
    assert len(lines) > 2, mark
    return [[cell.strip() for cell in line] for line in lines[2:]]


def named(text):
    return re.findall(r"`([^`]+)`", text)


def first_column(mark):
    return [name for row in rows(mark) for name in named(row[0])]


def section(number):
    return TEXT.partition(f"\n## {number}. ")[2].partition("\n## ")[0]


class Recorded(dict):
    """A dict that notes which of its members are read."""

    def __init__(self, members, read):
        super().__init__(members)
        self.read = read

    def get(self, key, default=None):
        self.read.add(key)
        return super().get(key, default)


def what_is_read(codec, names):
    """The headers, and members of data, that *codec* reads of messages with these *names*."""
    headers, members = set(), set()
    for name in names:
        for data in ("text", Recorded({}, members), Recorded({"text": "t"}, members)):
            for given in ({"responseId": "r"}, {"responseId": "r", "toolCallId": "c"}):
                extras = {"headers": Recorded(given, headers)}
                codec.decode(ChannelMessage(name, data, "i", "s", 0, None, extras))
    return headers, members


@pytest.mark.parametrize(
    ("codec", "mark", "names"),
    [
        (codecs, "tokens", set(codecs._READERS)),
        (appends, "appends", {appends.NAME, appends.END}),
    ],
)
def test_names_and_headers_are_those_of_the_codec(codec, mark, names):
    headers, members = what_is_read(codec, names)
    assert set(first_column(f"names: {mark}")) == names
    assert set(first_column(f"headers: {mark}")) == headers
    assert members <= set(re.findall(r"""[`"](\w+)[`"]""", section(3 if codec is codecs else 4)))


def test_events_are_those_of_the_codecs():
    kinds = {name for row in rows("names: tokens") for name in named(row[1])}
    assert kinds | {"void"} == KINDS
    for row in rows("names: tokens"):
        message = ChannelMessage(named(row[0])[0], "t", "i", "s", 0, None, None)
        event = codecs.decode(message)
        assert event.kind == named(row[1])[0] or event.kind == "void"
    assert {f"`{kind}`" for kind in KINDS} <= set(re.findall("`[a-z_]+`", section(3)))


def test_ai_transport_is_named_as_its_codec_reads_it():
    assert set(first_column("names: ai transport")) == set(ai_transport._READERS)
    said = set(named(section(5)))
    assert set(ai_transport._OUTPUTS) | set(ai_transport._TEXTUAL) <= said
    assert set(ai_transport._ENDS) <= said
    tree = ast.parse((SERVICE / "core/ai_transport.py").read_text())
    read = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "get"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("transport", "codec")
    }
    assert len(read) > 10
    assert read <= said


LEFT_OUT = ("erased_ids", "erased_stream", "token_names")


def test_a_member_of_the_answer_that_is_left_out_if_empty_has_a_table_of_its_own():
    assert first_column("members: answer, optional") == list(LEFT_OUT)
    assert set(LEFT_OUT) < schemas.ConversationOut.model_fields.keys()


@pytest.mark.parametrize(
    ("mark", "model"),
    [
        ("answer", schemas.ConversationOut),
        ("message", schemas.MessageOut),
        ("through", schemas.MessageOut.model_fields["through"].annotation),
    ],
)
def test_members_are_those_of_the_schema(mark, model):
    fields = [name for name, field in model.model_fields.items() if name not in LEFT_OUT]
    assert first_column(f"members: {mark}") == fields


def test_optional_members_are_those_of_the_wire_form():
    state = MessageState("m")
    state.owner, state.recent, state.steps = Owner("c"), {"i": 0}, {"s": "a"}
    state.edits = {"s": "v"}
    state.usage = state.error = state.metadata = {}
    state.anonymous = state.provisional = state.sealed = True
    optional = wire.message(state).keys() - schemas.MessageOut.model_fields.keys()
    assert set(first_column("members: optional")) == optional


def test_members_of_parts_are_those_of_the_schema():
    fields = {*schemas.TextPart.model_fields, *schemas.ToolCallPart.model_fields}
    assert set(first_column("members: parts")) == fields | {"gaps", "through", "result_through"}


def test_reasons_are_those_of_the_schema():
    codes = get_args(schemas.ReasonOut.model_fields["code"].annotation)
    assert set(first_column("reasons")) == set(codes)
    assert {f"`{name}`" for name in STATUSES} <= set(re.findall("`[a-z_]+`", section(6)))


def test_reasons_say_of_retry_what_the_code_says():
    said = {row[0].strip("`"): row[1] for row in rows("reasons")}
    found = {}
    for path in SERVICE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Reason":
                retry = next(word.value for word in node.keywords if word.arg == "retry")
                found.setdefault(node.args[0].value, set()).add(str(retry.value).lower())
    assert found == {code: {retry} for code, retry in said.items()}


def test_problems_are_those_of_the_code():
    def codes(cls):
        if cls.__module__.startswith(("rehydrate.errors", "rehydrate.api")):
            yield cls.__dict__.get("code")
        for each in cls.__subclasses__():
            yield from codes(each)

    known = {code for code in codes(errors.RehydrateError) if code}
    known |= set(answers._CODES.values()) | {"refused"}
    assert set(first_column("codes")) == known
    for row in rows("codes"):
        for status, code in answers._CODES.items():
            assert row[0] != f"`{code}`" or row[1].startswith(str(status)), row
    problem = answers.Problem(422, "bad_parameter", "t", "d", "limit").response("r")
    assert set(first_column("problem")) == json.loads(problem.body).keys()


def test_events_of_the_stream_are_those_that_are_sent():
    sent = (KINDS - {"void", "cancel"}) | {"snapshot", "again", "end"}
    assert set(first_column("sse")) == sent
    always = {"message_id", "gen", "seq", "serial", "replay_of"}
    for row in rows("sse"):
        for kind in named(row[0]):
            if kind in ("snapshot", "again", "end"):
                continue
            fields = {"kind": kind} | dict.fromkeys(Event._fields[1:], 1)
            event = tuple.__new__(Event, fields.values())  # all fields: more than one kind has
            members = FollowEvent(kind, 1, "i", event=event, message_id="m").data.keys()
            assert {name for name in named(row[1]) if name != "{}"} | always <= members, kind


def test_parameters_are_those_of_the_routes():
    app = FastAPI()
    app.include_router(conversations.router(_NoService(), authorize=lambda *_: True))
    paths = app.openapi()["paths"]
    for path, mark in (("", "parameters"), ("/stream", None)):
        operation = paths["/v1/conversations/{conversation_id}" + path]["get"]
        names = {each["name"] for each in operation["parameters"]} - {"conversation_id"}
        assert names <= set(named(section(8) + section(11)))
        assert mark is None or set(first_column(mark)) == names


class _NoService:
    """Serves nothing: the routes are only described."""

    readers = None


def test_limits_are_those_of_the_code():
    for limit in (MAX_SEQ, MAX_CHARACTERS, MAX_EVENTS, MAX_STEPS, MAX_OPEN, MAX_VERSIONED):
        assert f"{limit:,}" in section(7)
    assert f"{codecs.CHUNK_CHARACTERS:,}" in section(7)
    assert f"{codecs.REPAIR_BYTES:,}" in section(7)


def test_the_drop_rule_is_numbered_without_holes():
    numbers = [int(row[0]) for row in rows("drop rule")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_sections_that_the_code_cites_are_there():
    headings = set(re.findall(r"^##+ (\d+(?:\.\d+)?)", TEXT, re.MULTILINE))
    for path in [*SERVICE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for said in re.findall(r"docs/protocol\.md,? section (\d+(?:\.\d+)?)", path.read_text()):
            assert said in headings, path


def test_sections_that_the_document_cites_are_there():
    headings = set(re.findall(r"^##+ (\d+(?:\.\d+)?)", TEXT, re.MULTILINE))
    cited = re.findall(r"[Ss]ections?\s((?:\d+(?:\.\d+)?(?:,\s|\sand\s|\sto\s|\sor\s)?)+)", TEXT)
    numbers = {number for group in cited for number in re.findall(r"\d+(?:\.\d+)?", group)}
    assert numbers <= headings


def example(name):
    return json.loads(TEXT.partition(f"<!-- example: {name} -->\n```json\n")[2].partition("```")[0])


def messages_of_the_example():
    for m in example("channel"):
        at_ms = int(m["serial"][:14])
        yield ChannelMessage(
            m["name"], m["data"], m["id"], m["serial"], at_ms, m["clientId"], m.get("extras")
        )


def test_the_example_is_what_a_hydrate_answers():
    messages = list(messages_of_the_example())
    now_ms = messages[0].timestamp_ms + 7_000
    store, channel = MemoryStore(), MemoryChannel(map(Posted, messages))
    store.now_ms = channel.now_ms = now_ms
    ctx = memory_context(store, channel, lambda: now_ms, retention_ms=120_000)
    hydrated = json.loads(asyncio.run(hydrate(ctx, "conv-42")).body)
    assert hydrated | {"channel": "ai:conv-42"} == example("answer")


def test_the_reader_of_the_example_does_what_the_overview_says():
    view = View(example("answer"))
    *_, upon = messages_of_the_example()
    view.apply_event(codecs.decode(upon))
    for seq, name, data in ((3, "token", "a time"), (4, "stop", None)):
        headers = {"responseId": "resp_1", "seq": seq, "gen": 1}
        live = upon._replace(name=name, data=data, id=f"a1:{seq}", extras={"headers": headers})
        view.apply_event(codecs.decode(live))
    shown = view.messages[-1]
    assert (shown["text"], shown["status"]) == ("Once upon a time", "completed")
