from __future__ import annotations

import pytest

from localably.config import Key, LocalAblySettings, Namespace, apps_of, key_from, namespace_from
from localably.errors import RefusedError


@pytest.mark.parametrize("value", ["", "x", "a:b", "a.b", ".b:c", "a.:c", "a.b:"])
def test_an_invalid_key_is_refused(value):
    with pytest.raises(RefusedError) as refused:
        Key.parse(value)
    assert refused.value.code == 40101


def test_a_missing_key_is_generated_and_its_secret_is_not_shown():
    [app] = apps_of([]).values()
    [key] = app.keys.values()
    assert Key.parse(key.value).name == key.name
    assert key.secret not in repr(key)
    assert set(app.namespaces) == {"persisted", "mutable"}


def test_keys_of_one_app_share_its_namespaces():
    apps = apps_of(["a.1:x", "a.2:y", "b.1:z"], [Namespace("ai", mutable=True)])
    assert {name: sorted(app.keys) for name, app in apps.items()} == {
        "a": ["a.1", "a.2"],
        "b": ["b.1"],
    }
    assert apps["a"].namespaces["ai"].mutable


def test_retention_is_the_namespaces_or_that_of_persistence_or_two_minutes():
    settings = LocalAblySettings()
    assert settings.retention_ms(None) == 120_000
    assert settings.retention_ms(Namespace("x")) == 120_000
    assert settings.retention_ms(Namespace("x", persisted=True)) == 86_400_000
    assert settings.retention_ms(Namespace("x", mutable=True)) == 86_400_000
    assert settings.retention_ms(Namespace("x", retention_s=2)) == 2000


@pytest.mark.parametrize(
    "item",
    [{}, {"id": ""}, {"id": 5}, {"id": "x", "retention_s": "1"}, {"id": "x", "retention_s": 0}],
)
def test_an_invalid_namespace_is_refused(item):
    with pytest.raises(RefusedError):
        namespace_from(item)


def test_keys_of_a_request_are_made_with_the_ordinary_capability():
    key = key_from("app", {"revocableTokens": True})
    assert (key.app_id, str(key.capability), key.revocable_tokens) == ("app", '{"*":["*"]}', True)
    with pytest.raises(RefusedError):
        key_from("app", {"capability": {"a": ["*"]}})
