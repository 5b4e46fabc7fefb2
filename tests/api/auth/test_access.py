from __future__ import annotations

import asyncio
import contextlib

import pytest
from starlette.requests import Request

from api.conftest import make_access, whole_capability
from api.minting import ADMIN_KEY, KEY, OTHER_KEY, READER, SERVICE_KEY, mint
from rehydrate.api.auth.access import Access, Reader, bearer
from rehydrate.errors import ChannelUnavailable, Forbidden, NotConfigured, Unauthorized


def on(channel):
    async def resolve():
        return channel

    return resolve


async def never():
    raise AssertionError("the channel was looked up for a stranger")


async def may_only(_key):
    return {"ai:*": ["history"], "b": ["publish"]}


async def away(_key):
    raise ChannelUnavailable("away")


async def test_a_token_grants_access_to_its_channels_only():
    access = make_access()
    token = mint({"ai:mine": ["history"]}, **{"x-ably-clientId": "ann"})
    reader = await access.reader(token, on("ai:mine"))
    assert reader.client_id == "ann"
    assert reader.expires_s is not None
    with pytest.raises(Forbidden):
        await access.reader(token, on("ai:yours"))


@pytest.mark.parametrize(
    ("operations", "opens"),
    [(["history"], True), (["subscribe"], True), (["*"], True), (["publish", "stats"], False)],
)
async def test_history_or_subscribe_permits_reading(operations, opens):
    access = make_access()
    token = mint({"ai:*": operations})
    if opens:
        await access.reader(token, on("ai:x"))
    else:
        with pytest.raises(Forbidden):
            await access.reader(token, on("ai:x"))


async def test_key_and_token_must_both_grant_an_operation():
    access = make_access(key_capability=may_only)
    await access.reader(mint({"*": ["*"]}), on("ai:x"))
    await access.reader(mint(), on("ai:x"))
    for token, channel in [
        (mint({"*": ["subscribe"]}), "ai:x"),  # the key has no subscribe
        (mint({"*": ["*"]}), "b"),  # the key may only publish there
        (mint(), "c"),  # the key has nothing there
        (mint({"ai:y": ["history"]}), "ai:x"),
    ]:
        with pytest.raises(Forbidden):
            await access.reader(token, on(channel))


async def test_before_ably_has_answered_about_a_key_it_signs_access_to_nothing():
    access = make_access(key_capability=away)
    for token in (mint(READER), mint({"*": ["*"]}), mint()):
        with pytest.raises(ChannelUnavailable):
            await access.reader(token, on("ai:x"))
    await access.close()


async def test_after_a_restart_the_last_known_capability_of_a_key_decides(store):
    before = make_access(key_capability=may_only, kept=store)
    await before.reader(mint(READER), on("ai:x"))
    await until_kept(store)
    await before.close()
    access = make_access(key_capability=away, kept=store)
    await access.reader(mint(READER), on("ai:x"))
    with pytest.raises(Forbidden):
        await access.reader(mint({"*": ["*"]}), on("c"))  # the key has nothing there
    await access.close()


async def test_after_a_restart_a_revoked_key_signs_access_to_nothing(store):
    async def revoked(_):
        raise Unauthorized("revoked")

    for answer in (may_only, revoked):
        before = make_access(key_capability=answer, kept=store)
        with contextlib.suppress(Unauthorized):
            await before.reader(mint(READER), on("ai:x"))
        await until_kept(store, b"{}" if answer is revoked else None)
        await before.close()
    access = make_access(key_capability=away, kept=store)
    with pytest.raises(Forbidden):
        await access.reader(mint(READER), on("ai:x"))
    await access.close()


async def until_kept(store, capability=None):
    """Wait until the capability of the first key is stored; None: any."""
    async with asyncio.timeout(10):
        while True:
            kept = await store.kept_capability("app1.key1")
            if kept is not None and capability in (None, kept):
                return
            await asyncio.sleep(0.01)


async def test_an_unknown_token_learns_nothing_and_causes_no_lookup():
    access = make_access()
    for token in (None, "", "x", "a.b.c", mint(READER, key=OTHER_KEY), mint(READER, ttl_s=-5)):
        with pytest.raises(Unauthorized):
            await access.reader(token, never)
    with pytest.raises(Unauthorized):
        await access.reader("x" * 20_000, never)


async def test_every_configured_key_can_sign_readers_tokens():
    access = make_access(ably_keys=[KEY, OTHER_KEY])
    for key in (KEY, OTHER_KEY):
        await access.reader(mint(READER, key=key), on("ai:x"))


async def test_requests_have_an_owner_by_clientid_or_token_but_backends_act_for_many():
    async def admits(_token, _channel):
        return True

    access = make_access(admits=admits)

    async def owner(token):
        found = (await access.reader(token, on("ai:x"))).owner
        assert token not in str(found)
        return found

    ann = {"x-ably-clientId": "ann"}
    assert await owner(mint(READER, **ann)) == await owner(mint(READER, ttl_s=60, **ann))
    tokens = [mint(READER), mint(READER, ttl_s=60), mint(READER, **ann), "app1.a", "app1.b"]
    owners = [await owner(token) for token in tokens]
    assert len(set(owners)) == len(tokens)
    assert await owner(tokens[0]) == owners[0]
    for key in (SERVICE_KEY, ADMIN_KEY):
        assert (await access.reader(key, never)).owner is None


async def test_an_opaque_token_is_checked_with_ably():
    asked = []

    async def admits(token, channel):
        asked.append((token, channel))
        return channel == "ai:mine"

    access = make_access(admits=admits)
    reader = await access.reader("app1.opaque", on("ai:mine"))
    assert reader._replace(owner=None, verify=None) == Reader()
    with pytest.raises(Forbidden):
        await access.reader("app1.opaque", on("ai:yours"))
    assert asked == [("app1.opaque", "ai:mine"), ("app1.opaque", "ai:yours")]
    await reader.verify()
    with pytest.raises(Unauthorized):  # of an app that no configured key belongs to
        await access.reader("app2.opaque", never)
    assert len(asked) == 2
    await access.close()


async def test_without_token_checks_opaque_tokens_are_rejected():
    with pytest.raises(Unauthorized):
        await make_access().reader("app1.opaque", never)


async def test_backends_and_admins_may_read_everything():
    access = make_access()
    for key in (SERVICE_KEY, ADMIN_KEY):
        assert await access.reader(key, never) == Reader()


def test_a_backend_needs_a_service_key():
    access = make_access()
    access.backend(SERVICE_KEY)
    access.backend(ADMIN_KEY)
    for stranger in (None, "", SERVICE_KEY + " ", SERVICE_KEY[:-1], "app1.opaque", "clé"):
        with pytest.raises(Unauthorized):
            access.backend(stranger)
    with pytest.raises(Forbidden):
        access.backend(mint({"*": ["*"]}))
    with pytest.raises(Unauthorized):
        access.backend(mint({"*": ["*"]}, ttl_s=-5))


def test_an_admin_needs_an_admin_key():
    access = make_access()
    access.admin(ADMIN_KEY)
    with pytest.raises(Forbidden):
        access.admin(SERVICE_KEY)
    with pytest.raises(Forbidden):
        access.admin(mint({"*": ["*"]}))
    for stranger in (None, "x", mint(key=OTHER_KEY)):
        with pytest.raises(Unauthorized):
            access.admin(stranger)


def test_every_configured_secret_is_accepted():
    access = Access(service_keys=["one", "two"], admin_keys=["three"])
    for key in ("one", "two", "three"):
        access.backend(key)
    with pytest.raises(Unauthorized):
        access.backend("one,two")


def test_a_malformed_key_is_reported_at_startup_without_its_secret():
    for wrong in ({"ably_keys": ["app1.key1-hush"]}, {"service_keys": [" "]}, {"admin_keys": [""]}):
        with pytest.raises(NotConfigured, match="REHYDRATE_") as error:
            Access(**wrong)
        assert "hush" not in str(error.value)


def test_access_without_keys_is_not_configured():
    assert not Access().configured
    assert Access(service_keys=["s"]).configured
    assert Access(admin_keys=["s"]).configured
    assert Access(ably_keys=[KEY]).configured


async def test_open_fetches_the_keys_capabilities_and_close_cancels_that():
    asked = []

    async def capability(key):
        asked.append(key)
        return await whole_capability(key)

    access = make_access(key_capability=capability)
    access.open()
    await access.reader(mint(READER), on("ai:x"))
    assert asked == [KEY]
    await access.close()


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (None, None),
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("BEARER a.b.c", "a.b.c"),
        ("Bearer", Unauthorized),
        ("Bearer ", Unauthorized),
        ("Basic YTpi", Unauthorized),
        ("abc", Unauthorized),
    ],
)
def test_the_token_follows_the_word_bearer(header, token):
    headers = [] if header is None else [(b"authorization", header.encode())]
    request = Request({"type": "http", "headers": headers})
    if token is Unauthorized:
        with pytest.raises(Unauthorized, match="Bearer"):
            bearer(request)
    else:
        assert bearer(request) == token
