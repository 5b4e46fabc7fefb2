"""The store's contract for reads: messages and pages are returned as they were written."""

from __future__ import annotations

import asyncio

import pytest

from contracts.messages import UNICODE_IDS, bodies, event_of, finished, further, put, response
from rehydrate.core import wire
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.positions import Cursor
from rehydrate.core.timeline import Lookup
from rehydrate.errors import BadParameter, Conflict


class Rows:
    """Conversations, messages and pages."""

    async def test_an_unknown_conversation_is_empty(self, store) -> None:
        stored = await store.load("none", limit=5, before=None)
        assert stored == (None, [], False, [])
        assert await store.conversation("none") is None
        assert await store.states("none", ["m"]) == []
        assert await store.message("none", "m") is None
        assert await store.conversations(limit=5, before=None) == ([], None)

    async def test_locking_creates_the_conversation(self, store) -> None:
        async with store.locked("c", "ai:c") as locked:
            made = locked.conversation
        assert (made.id, made.channel, made.watermark, made.holes) == ("c", "ai:c", None, ())
        assert (await store.load("c", limit=1, before=None)).conversation == made
        assert await store.conversation("c") == made
        assert await store.conversations(limit=5, before=None) == ([made], None)

    async def test_the_channel_of_the_row_wins_over_the_given_one(self, store) -> None:
        async with store.locked("c", "first"):
            pass
        async with store.locked("c", "second") as locked:
            assert locked.conversation.channel == "first"

    async def test_a_channel_belongs_to_one_conversation(self, store) -> None:
        async with store.locked("c", "same"):
            pass
        with pytest.raises(Conflict):
            async with store.locked("d", "same"):
                pytest.fail("locked")
        assert (await store.load("d", limit=1, before=None)).conversation is None

    async def test_an_open_message_is_loaded_as_it_was_folded(self, store) -> None:
        state = response("m", "Hel", "lo")
        await put(store, "c", state)
        (loaded,) = (await store.load("c", limit=1, before=None)).open
        assert wire.message(loaded) == wire.message(state)
        assert loaded.position == state.position
        assert await store.message("c", "m") == wire.encode(state)

    async def test_a_finished_message_is_loaded_in_its_wire_form(self, store) -> None:
        state = response("m", "Hel", "lo", ended=True)
        await put(store, "c", state)
        stored = await store.load("c", limit=1, before=None)
        assert stored.open == []
        assert stored.finished == [(state.position, "m", wire.encode(state))]
        assert await store.message("c", "m") == wire.encode(state)
        (read,) = await store.states("c", ["m"])
        assert wire.message(read) == wire.message(state)

    async def test_a_response_grows_and_ends(self, store) -> None:
        await put(store, "c", response("m"))
        for seq in range(1, 30):
            await further(store, "c", event_of("token", "m", seq, text=f"{seq} "))
        await further(store, "c", event_of("stop", "m", 30, status="failed"))
        (body,) = bodies(await store.load("c", limit=1, before=None))
        assert body["text"] == "".join(f"{seq} " for seq in range(1, 30))
        assert body["status"] == "failed"

    async def test_a_gap_of_a_finished_message_can_be_filled(self, store) -> None:
        state = response("m", "a")
        fold(state, event_of("token", "m", 3, text="c"))
        fold(state, event_of("stop", "m", 4))
        await put(store, "c", state)
        assert bodies(await store.load("c", limit=1, before=None))[0]["gaps"] == [[2, 2]]
        await further(store, "c", event_of("token", "m", 2, text="b"))
        (body,) = bodies(await store.load("c", limit=1, before=None))
        assert (body["text"], body["gaps"]) == ("abc", [])

    async def test_a_repair_replaces_what_is_stored(self, store) -> None:
        await put(store, "c", response("m", "a", "b", "c", "d"))
        await further(store, "c", event_of("repair", "m", 3, text="XYZ", serial="~"))
        (read,) = await store.states("c", ["m"])
        assert wire.message(read)["text"] == "XYZd"
        assert read.repaired == 3

    async def test_a_take_over_empties_what_is_stored(self, store) -> None:
        await put(store, "c", response("m", "old", "text"))
        await further(store, "c", event_of("token", "m", 1, gen=2, text="new"))
        (read,) = (await store.load("c", limit=1, before=None)).open
        assert (read.gen, wire.message(read)["text"]) == (2, "new")

    async def test_a_position_never_changes(self, store) -> None:
        first = response("m", "a")
        await put(store, "c", first)
        place = first.position
        async with store.locked("c", "ai:c") as locked:
            state = (await locked.messages(["m"]))["m"]
            state.position = "0"
            fold(state, event_of("stop", "m", 2))
            await locked.put([state])
        assert (await store.load("c", limit=1, before=None)).finished[0].position == place

    async def test_a_position_can_be_set_later(self, store) -> None:
        state = MessageState("m")
        fold(state, event_of("start", "m", 0, serial=None))
        await put(store, "c", state)
        assert (await store.load("c", limit=1, before=None)).open[0].position is None
        await further(store, "c", event_of("token", "m", 1, text="a", serial="5-s"))
        assert (await store.load("c", limit=1, before=None)).open[0].position == "5-s"

    async def test_a_message_that_ends_without_a_position_gets_one(self, store) -> None:
        state = MessageState("m")
        fold(state, event_of("start", "m", 0, serial=None))
        fold(state, event_of("stop", "m", 1, serial=None))
        await put(store, "c", state)
        (row,) = (await store.load("c", limit=1, before=None)).finished
        assert row.position
        assert state.position == row.position

    async def test_a_new_message_does_not_overwrite_a_stored_one(self, store) -> None:
        await put(store, "c", response("m", "first"))
        with pytest.raises(Conflict):
            await put(store, "c", response("m", "second"))
        (read,) = await store.states("c", ["m"])
        assert wire.message(read)["text"] == "first"

    async def test_only_the_requested_messages_are_returned(self, store) -> None:
        await put(store, "c", *(finished(f"m{n}", f"{n}") for n in range(5)))
        await put(store, "d", finished("m1", "1"))
        assert {state.id for state in await store.states("c", ["m1", "m3", "no"])} == {"m1", "m3"}
        assert await store.states("c", []) == []

    async def test_a_lookup_finds_all_that_events_may_belong_to(self, store) -> None:
        from_two = Lookup(frozenset({"n"}), frozenset(), "2")
        assert await store.states("c", from_two) == []
        states = [finished(name, place) for name, place in zip("abcdn", "01345", strict=True)]
        for state in (*states[:4], streaming := response("s")):
            state.anonymous = True
        streaming.position = "00"
        await put(store, "c", *states, streaming)
        await put(store, "d", finished("b", "1"))
        assert {state.id for state in await store.states("c", from_two)} == set("bcdn")
        early = Lookup(frozenset({"a"}), frozenset({"3", "00"}), "")
        assert {state.id for state in await store.states("c", early)} == set("abcds")
        at_serials = Lookup(frozenset(), frozenset({"4", "00", "9", "d"}))
        assert {state.id for state in await store.states("c", at_serials)} == {"d", "s"}
        async with store.locked("c", "ai:c") as locked:
            assert await locked.messages(Lookup()) == {}
            assert set(await locked.messages(from_two)) == set("bcdn")


class Pages:
    """Pages of finished messages, and of conversations."""

    async def test_pages_are_stable_while_new_messages_come(self, store) -> None:
        await put(store, "c", *(finished(f"m{n:02}", f"{n:02}") for n in range(10)))
        seen, before = [], None
        for turn in range(10):
            page = await store.load("c", limit=3, before=before)
            seen = [row.id for row in page.finished] + seen
            assert page.open == [] or before is None
            if not page.more:
                break
            before = Cursor(page.finished[0].position, page.finished[0].id)
            await put(store, "c", finished(f"new{turn}", f"9{turn}"), response(f"open{turn}"))
        assert seen == [f"m{n:02}" for n in range(10)]

    async def test_messages_at_one_position_are_ordered_by_id(self, store) -> None:
        await put(store, "c", *(finished(id_, "same") for id_ in sorted(UNICODE_IDS)))
        seen, before, more = [], None, True
        while more:
            page = await store.load("c", limit=1, before=before)
            seen = [row.id for row in page.finished] + seen
            before, more = Cursor("same", seen[0]), page.more
        assert seen == sorted(UNICODE_IDS)

    async def test_open_messages_come_with_the_newest_page_only(self, store) -> None:
        await put(store, "c", finished("m", "1"), response("open", "text"))
        newest = await store.load("c", limit=1, before=None)
        assert [state.id for state in newest.open] == ["open"]
        assert (await store.load("c", limit=1, before=Cursor("2", ""))).open == []

    async def test_a_page_has_the_newest_messages_oldest_first(self, store) -> None:
        await put(store, "c", *(finished(f"m{n}", f"{n}") for n in (3, 1, 2)))
        page = await store.load("c", limit=2, before=None)
        assert ([row.id for row in page.finished], page.more) == (["m2", "m3"], True)
        page = await store.load("c", limit=3, before=None)
        assert ([row.id for row in page.finished], page.more) == (["m1", "m2", "m3"], False)

    async def test_conversations_come_newest_first_and_in_pages(self, store) -> None:
        for name in UNICODE_IDS:
            async with store.locked(name, f"ai:{name}"):
                pass
            await asyncio.sleep(0.002)
        seen, before = [], None
        while True:
            page, before = await store.conversations(limit=4, before=before)
            seen += [row.id for row in page]
            if before is None:
                break
        assert seen == UNICODE_IDS[::-1]

    async def test_an_invalid_cursor_of_conversations_is_refused(self, store) -> None:
        for position in ("", "x", "9" * 30):
            with pytest.raises(BadParameter):
                await store.conversations(limit=1, before=Cursor(position, "c"))


class Text:
    """Ids and texts with unusual characters."""

    @pytest.mark.parametrize("id_", UNICODE_IDS)
    async def test_ids_are_stored_unchanged(self, store, id_: str) -> None:
        conversation = id_[:120]
        async with store.locked(conversation, f"ai:{conversation}") as locked:
            await locked.put([response(id_, "text", prompt_id=id_)])
            await locked.grant(id_, id_, 5)
        stored = await store.load(conversation, limit=1, before=None)
        assert stored.conversation.id == conversation
        assert (stored.open[0].id, stored.open[0].prompt_id) == (id_, id_)

    @pytest.mark.parametrize("text", ["\0", "\ud83d", "a\ude00b", "😀" * 50, "\u0301", '\r\n\t\\"'])
    async def test_texts_are_stored_unchanged(self, store, text: str) -> None:
        state = response("m", "before ", text, " after")
        await put(store, "c", state)
        (read,) = (await store.load("c", limit=1, before=None)).open
        assert wire.message(read)["text"] == f"before {text} after"
        await further(store, "c", event_of("stop", "m", 4, error=text, value={text: text}))
        (read,) = await store.states("c", ["m"])
        body = wire.message(read)
        assert (body["text"], body["error"]) == (f"before {text} after", text)
        assert body["usage"] == {text: text}

    async def test_surrogate_halves_stay_separate_until_they_are_read(self, store) -> None:
        await put(store, "c", response("m", "\ud83d", "\ude00", "x"))
        await further(store, "c", event_of("repair", "m", 1, text="_", serial="~"))
        (read,) = await store.states("c", ["m"])
        assert wire.message(read)["text"] == "_\ude00x"

    @pytest.mark.parametrize("id_", ["a\0b", "\ud800"])
    async def test_an_id_that_cannot_be_stored_is_refused(self, store, id_: str) -> None:
        await put(store, "c", finished("m", "1"))
        for call in (
            lambda: put(store, "c", response(id_)),
            lambda: put(store, id_, response("m")),
            lambda: store.conversation(id_),
            lambda: store.load(id_, limit=1, before=None),
            lambda: store.load("c", limit=1, before=Cursor(id_, "")),
        ):
            with pytest.raises(BadParameter):
                await call()
        assert await store.message("c", id_) is None
        assert [s.id for s in await store.states("c", [id_, "m"])] == ["m"]
