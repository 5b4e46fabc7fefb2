"""D:messages/updates-deletes, RSL15, RTL32."""

from __future__ import annotations

import pytest
from ably import AblyException
from ably.types.message import Message
from ably.types.operations import MessageOperation

from channel_server.clients import arrives, into
from channel_server.worlds import World, change, created, texts
from localably.config import Key
from localably.frames import Action
from localably.log import Query
from localably.messages import APPEND, UPDATE


async def test_updates_deletes_and_appends_live_in_history_and_as_versions(js):
    seen = await js("mutable")
    actions = [(m["action"], m["data"]) for m in seen["live"]]
    assert actions == [
        ("message.create", "Hello"),
        ("message.append", " World"),
        ("message.append", "!"),
        ("message.append", "?"),
        ("message.update", "New"),
        ("message.delete", ""),
    ]
    assert {m["serial"] for m in seen["live"]} == {seen["serial"]}
    assert {m["name"] for m in seen["live"]} == {"greeting"}
    versions = [m["version"] for m in seen["live"]]
    assert versions == sorted(set(versions))
    assert seen["appended"] == versions[1]
    assert (
        seen["version"].items()
        >= {
            "clientId": "x",
            "description": "d",
            "metadata": {"k": "v"},
        }.items()
    )
    assert (seen["updated"], seen["deleted"]) == (versions[4], versions[5])


async def test_the_first_delivery_is_the_whole_message_and_later_ones_are_deltas(js):
    seen = await js("mutable")
    late = [(m["action"], m["data"]) for m in seen["late"]]
    assert late[:2] == [("message.update", "Hello World!"), ("message.append", "?")]
    assert [(m["action"], m["data"]) for m in seen["rewound"]][:1] == [
        ("message.update", "Hello World!?")
    ]
    assert [(m["action"], m["data"]) for m in seen["history"]] == [("message.delete", "")]
    assert seen["latest"]["action"] == "message.delete"
    kept = [(m["action"], m["data"]) for m in seen["versions"]]
    assert kept == [
        ("message.create", "Hello"),
        ("message.update", "Hello World!?"),
        ("message.update", "New"),
        ("message.delete", ""),
    ]


async def test_93002_without_the_namespaces_rule_and_404_without_the_message(js):
    seen = await js("mutable")
    assert seen["refused"] == {"code": 93002, "statusCode": 400}
    assert seen["missing"] == {"code": 40400, "statusCode": 404}


async def test_python_updates_deletes_appends_and_reads_versions(clients):
    writer, reader = await clients.realtime(), await clients.realtime()
    channel = writer.channels.get("mutable:room")
    serial = (await channel.publish("n", "Hello")).serials[0]
    got = []
    await reader.channels.get("mutable:room").subscribe(into(got))
    operation = MessageOperation(description="d", metadata={"k": "v"})
    appended = await channel.append_message(Message(serial=serial, data=" World"), operation)
    await arrives(got, 1)
    await channel.append_message(Message(serial=serial, data="!"))
    await arrives(got, 2)
    assert [(m.action.name, m.data) for m in got] == [
        ("MESSAGE_UPDATE", "Hello World"),
        ("MESSAGE_APPEND", "!"),
    ]
    assert got[0].version.serial == appended.version_serial
    assert (got[0].version.description, got[0].version.metadata) == ("d", {"k": "v"})
    rest = (await clients.rest()).channels.get("mutable:room")
    updated = await rest.update_message(Message(serial=serial, data="New"))
    deleted = await rest.delete_message(Message(serial=serial))
    versions = (await rest.get_message_versions(serial)).items
    assert [v.version.serial for v in versions[-2:]] == [
        updated.version_serial,
        deleted.version_serial,
    ]
    latest = await rest.get_message(serial)
    assert (latest.action.name, latest.data) == ("MESSAGE_DELETE", "New")
    with pytest.raises(AblyException) as refused:
        await writer.channels.get("plain").append_message(Message(serial=serial, data="x"))
    assert refused.value.code == 93002


def narrow(world, name, capability):
    key = Key.parse(f"app.{name}:secret", capability)
    world.app.keys[key.name] = key
    return key.value


def test_own_messages_may_be_changed_with_message_update_own_and_others_not():
    world = World()
    grant = '{"mutable:*":["publish","message-update-own"]}'
    key = narrow(world, "own", grant)
    identity = world.hub.authenticator.by_key(key, "ann")
    ann = type(world.connect())(world.hub.connect(identity, {"clientId": "ann"}, lambda: None))
    identity = world.hub.authenticator.by_key(key)
    anybody = type(ann)(world.hub.connect(identity, {}, lambda: None))
    mine, others = created(ann), created(world.connect())
    assert change(ann, 5, mine, data="y")[0]["action"] == Action.ACK
    assert change(ann, 5, others, data="y")[0]["error"]["code"] == 40160
    assert change(anybody, 5, mine, data="y")[0]["error"]["code"] == 40166
    assert change(ann, 2, mine)[0]["error"]["code"] == 40160


def test_appended_text_counts_towards_the_size_of_the_whole_message():
    world = World(max_message_bytes=100)
    peer = world.connect()
    serial = created(peer)
    assert change(peer, 5, serial, data="y" * 60)[0]["action"] == Action.ACK
    [nack] = change(peer, 5, serial, data="y" * 60)
    assert nack["error"]["code"] == 40009
    assert world.channel("mutable:a").log.find(serial).fields["data"] == "x" + "y" * 60


def test_text_is_not_appended_to_bytes_nor_to_json():
    peer = World().connect()
    serial = created(peer, data='{"a":1}', encoding="json")
    assert change(peer, 5, serial, data="y")[0]["error"]["code"] == 40000
    assert change(peer, 5, serial, data="eA==", encoding="base64")[0]["error"]["code"] == 40000


def test_a_change_without_serial_is_40003_and_of_an_unknown_one_40400():
    peer = World().connect()
    assert change(peer, 1, None)[0]["error"]["code"] == 40003
    assert change(peer, 1, "01700000000000-000@x:000")[0]["error"]["code"] == 40400


def test_absent_fields_stay_and_a_fault_removes_the_extras():
    world = World()
    peer = world.connect()
    serial = created(peer, name="n", extras={"headers": {"responseId": "r"}})
    change(peer, 5, serial, data="y")
    log = world.channel("mutable:a").log
    assert log.find(serial).fields["extras"] == {"headers": {"responseId": "r"}}
    world.hub.faults.set("drop_append_extras")
    change(peer, 5, serial, data="z")
    assert "extras" not in log.find(serial).fields
    assert log.find(serial).fields["name"] == "n"


def test_a_change_sent_twice_with_one_id_is_done_once():
    world = World()
    peer = world.connect()
    serial = created(peer)
    first = change(peer, 5, serial, data="y", id="a:1")
    again = change(peer, 5, serial, data="y", id="a:1")
    assert first[-1]["res"] == again[-1]["res"]
    assert world.channel("mutable:a").log.find(serial).fields["data"] == "xy"


def test_a_dropped_create_still_counts_as_seen_so_that_a_delta_follows():
    world = World()
    reader, writer = world.connect(), world.connect(appendRollupWindow="0")
    reader.attach("mutable:a")
    world.hub.faults.set("drop_deliveries", nth=1, silent=True)
    serial = created(writer)
    change(writer, 5, serial, data="y")
    [delta] = reader.take()
    assert (delta["messages"][0]["action"], texts([delta])) == (5, ["y"])


@pytest.mark.faults_may_not_fire  # history is read directly below, not by a request
def test_appended_text_lags_with_history_while_the_fault_is_on():
    world = World()
    world.hub.faults.set("delay_history", ms=1000)
    peer = world.connect()
    serial = created(peer)
    log = world.channel("mutable:a").log
    for text in "yz":
        world.pass_ms(1000)
        change(peer, 5, serial, data=text)

    def shown(ago_ms):
        [message] = log.history(Query(10, visible_ms=world.now_ms - ago_ms)).messages
        return message.fields["data"]

    assert [shown(ago_ms) for ago_ms in (0, 500, 1500, 2000)] == ["xyz", "xy", "x", "x"]


def test_an_append_may_arrive_as_a_full_update_in_mid_stream():
    world = World()
    reader, writer = world.connect(), world.connect(appendRollupWindow="0")
    reader.attach("mutable:a")
    serial = created(writer)
    with world.hub.faults.on("full_updates", nth=2) as fault:
        for text in "abc":
            change(writer, APPEND, serial, data=text)
    got = [(m["action"], m["data"]) for f in reader.take() for m in f["messages"]]
    assert got == [(0, "x"), (APPEND, "a"), (UPDATE, "xab"), (APPEND, "c")]
    assert fault.fired == 1


def test_a_version_serial_may_be_missing_from_an_acknowledgement():
    world = World()
    writer = world.connect()
    serial = created(writer)
    with world.hub.faults.on("omit_version_serials", nth=1) as fault:
        [hidden, shown] = [change(writer, APPEND, serial, data=text)[0] for text in "ab"]
    assert hidden["res"][0]["serials"] == [None]
    assert shown["res"][0]["serials"][0] > serial
    assert fault.fired == 1
