"""The guard of the admin routes: whom it admits, and which refusals it records."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from api.conftest import make_access
from api.minting import ADMIN_KEY, READER, SERVICE_KEY, bearer, mint
from rehydrate.api.auth.admin_guard import REFUSALS_BURST, AdminGuard
from rehydrate.errors import Forbidden, StoreUnavailable, Unauthorized

PATH = "/v1/admin/conversations/c/x"


class Notes(list):
    away = False

    async def note(self, entry):
        if self.away:
            raise StoreUnavailable("away")
        self.append(entry)


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
def gate(notes):
    return AdminGuard(make_access(), notes)


def request(key=None, conversation_id="c"):
    named = bearer(key) if key else {}
    headers = [(name.lower().encode(), value.encode()) for name, value in named.items()]
    return Request(
        {
            "type": "http",
            "method": "POST",
            "path": PATH,
            "headers": headers,
            "client": ("10.1.2.3", 5),
            "path_params": {"conversation_id": conversation_id},
        }
    )


async def test_an_admin_is_admitted_and_named_without_its_key(gate, notes):
    asker = await gate(request(ADMIN_KEY))
    assert asker.actor.startswith("admin:")
    assert ADMIN_KEY not in asker.actor
    assert asker.address == "10.1.2.3"
    assert asker == await gate(request(ADMIN_KEY))
    assert notes == []


@pytest.mark.parametrize(("key", "actor"), [(SERVICE_KEY, "service:"), (mint(READER), "reader:")])
async def test_refusals_of_backends_and_readers_are_recorded(gate, notes, key, actor):
    with pytest.raises(Forbidden):
        await gate(request(key))
    (entry,) = notes
    assert entry.actor.startswith(actor)
    assert key not in str(entry)
    assert (entry.action, entry.outcome) == ("POST ?", "refused: forbidden")
    assert (entry.conversation_id, entry.address) == ("c", "10.1.2.3")


async def test_refusals_without_valid_credentials_are_not_recorded(gate, notes):
    for key in (None, "nobody's", "x" * 20_000):
        with pytest.raises(Unauthorized):
            await gate(request(key))
    assert notes == []


async def test_recorded_refusals_are_rate_limited(gate, notes):
    for _ in range(REFUSALS_BURST + 100):
        with pytest.raises(Forbidden):
            await gate(request(SERVICE_KEY))
    assert REFUSALS_BURST <= len(notes) < REFUSALS_BURST + 100


async def test_a_refusal_is_returned_even_if_it_cannot_be_recorded(gate, notes):
    notes.away = True
    with pytest.raises(Forbidden):
        await gate(request(SERVICE_KEY))


async def test_any_conversation_id_of_the_path_can_be_recorded(gate, notes):
    with pytest.raises(Forbidden):
        await gate(request(SERVICE_KEY, "a\0\ud83d" + "x" * 1000))
    assert notes[0].conversation_id.isprintable()
    assert len(notes[0].conversation_id) < 2000


@pytest.mark.parametrize("given", ["\x00", "a\ud800b", "line\nfeed", "\x1b[2J", "x" * 10_000])
async def test_a_name_that_cannot_be_stored_is_recorded_in_another_form(gate, notes, given):
    token = mint(READER, **{"x-ably-clientId": given})
    with pytest.raises(Forbidden):
        await gate(request(token, given))
    (entry,) = notes
    for text in (entry.actor, entry.conversation_id):
        assert text.isprintable()
        assert text.encode()
        assert len(text) < 3_000
    assert entry.actor.startswith(("reader:", "'reader:"))
