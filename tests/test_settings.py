"""Settings: read from the environment and validated; each error names its variable."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from rehydrate.errors import NotConfigured
from rehydrate.settings import Settings, described, load_settings, revealed

KEY = "app.key:secret"
VARIABLES = [str(field.validation_alias) for field in Settings.model_fields.values()]


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch


def test_the_defaults_need_no_environment():
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.channel_of("c") == "ai:c"
    assert settings.retention_ms == 120_000
    assert (settings.database_url, settings.ably_api_key, settings.service_keys) == (None, None, ())
    assert settings.ably_tls
    assert isinstance(settings.data_dir, Path)


def test_the_environment_is_read(bare):
    bare.setenv("REHYDRATE_DATABASE_URL", "postgres://u:p@h/d")
    bare.setenv("REHYDRATE_PORT", "0")
    bare.setenv("REHYDRATE_CHANNEL_TEMPLATE", "persisted:{conversation_id}:x")
    bare.setenv("REHYDRATE_SERVICE_KEYS", " the-first-service-key, the-second-service-key ,,")
    bare.setenv("REHYDRATE_AGENT_CLIENT_IDS", "bot,other")
    bare.setenv("ABLY_API_KEY", KEY)
    bare.setenv("ABLY_TLS", "false")
    settings = load_settings()
    assert settings.required_database_url() == "postgres://u:p@h/d"
    assert settings.required_ably_key() == KEY
    assert settings.channel_of("a{b}") == "persisted:a{b}:x"
    assert revealed(settings.service_keys) == ["the-first-service-key", "the-second-service-key"]
    assert settings.agent_client_ids == ("bot", "other")
    assert (settings.port, settings.ably_tls) == (0, False)


@pytest.mark.parametrize(
    ("text", "ms"), [("2m", 120_000), ("30s", 30_000), ("24h", 86_400_000), (" 3d ", 259_200_000)]
)
def test_retention_is_a_number_with_a_unit(bare, text, ms):
    bare.setenv("REHYDRATE_RETENTION", text)
    assert load_settings().retention_ms == ms


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REHYDRATE_RETENTION", "120"),
        ("REHYDRATE_RETENTION", "0s"),
        ("REHYDRATE_RETENTION", "two minutes"),
        ("REHYDRATE_RETENTION", "-2m"),
        ("REHYDRATE_PORT", "65536"),
        ("REHYDRATE_PORT", "http"),
        ("REHYDRATE_CHANNEL_TEMPLATE", "ai:all"),
        ("REHYDRATE_CHANNEL_TEMPLATE", "{conversation_id}{conversation_id}"),
        ("REHYDRATE_CHANNEL_TEMPLATE", ":{conversation_id}"),
        ("REHYDRATE_CHANNEL_TEMPLATE", "[meta]{conversation_id}"),
        ("REHYDRATE_CHANNEL_TEMPLATE", "ai:*:{conversation_id}"),
        ("REHYDRATE_CHANNEL_TEMPLATE", "ai:\n{conversation_id}"),
        ("REHYDRATE_SERVICE_KEYS", "a-service-key-of-20,fifteen-letters"),
        ("REHYDRATE_ADMIN_KEYS", "short"),
        ("REHYDRATE_LEASE_SECONDS", "0"),
        ("ABLY_API_KEY", "secret-without-a-form"),
        ("ABLY_API_KEY", "app.key: "),
        ("ABLY_PORT", "0"),
        ("ABLY_TLS", "perhaps"),
    ],
)
def test_an_invalid_value_names_its_variable_and_shows_no_secret(bare, variable, value):
    bare.setenv(variable, value)
    with pytest.raises(NotConfigured) as caught:
        load_settings()
    assert variable in str(caught.value)
    assert "secret-without-a-form" not in str(caught.value)


def test_a_key_of_backends_is_not_one_of_admins(bare):
    bare.setenv("REHYDRATE_SERVICE_KEYS", "a-service-key-of-20,shared-by-both-lists")
    bare.setenv("REHYDRATE_ADMIN_KEYS", "shared-by-both-lists")
    with pytest.raises(NotConfigured, match="REHYDRATE_ADMIN_KEYS share a key") as caught:
        load_settings()
    assert "shared-by-both" not in str(caught.value)


def test_all_invalid_values_are_reported_together(bare):
    bare.setenv("REHYDRATE_PORT", "x")
    bare.setenv("ABLY_PORT", "y")
    with pytest.raises(NotConfigured, match=r"REHYDRATE_PORT.*; .*ABLY_PORT"):
        load_settings()


@pytest.mark.parametrize(
    "variable", ["REHYDRATE_DATABASE_URL", "ABLY_API_KEY", "ABLY_ENDPOINT", "ABLY_PORT"]
)
def test_an_empty_variable_counts_as_unset(bare, variable):
    bare.setenv(variable, "")
    settings = load_settings()
    assert (settings.database_url, settings.ably_api_key) == (None, None)
    assert (settings.ably_endpoint, settings.ably_port) == (None, None)


def test_a_required_setting_that_is_unset_is_named():
    settings = load_settings()
    with pytest.raises(NotConfigured, match="REHYDRATE_DATABASE_URL"):
        settings.required_database_url()
    with pytest.raises(NotConfigured, match="ABLY_API_KEY"):
        settings.required_ably_key()


def test_readers_may_present_tokens_of_the_reader_keys_or_else_of_the_own_key():
    assert load_settings().reader_keys() == []
    assert load_settings(ably_api_key=KEY).reader_keys() == [KEY]
    both = load_settings(ably_api_key=KEY, ably_keys=("a.b:c", "d.e:f"))
    assert both.reader_keys() == ["a.b:c", "d.e:f"]


def test_no_secret_shows_in_the_representation():
    settings = load_settings(
        ably_api_key="app.key:hush-1",
        database_url="postgres://u:hush-2@h/d",
        service_keys="hush-3-of-a-service",
        admin_keys="hush-4-of-an-admin",
        ably_keys="a.b:hush-5",
    )
    assert "hush" not in repr(settings) + str(settings)


@pytest.mark.parametrize("change", [str, str.upper])
def test_a_variable_with_the_bare_name_of_a_field_changes_nothing(bare, change):
    values = {
        "database_url": "postgres://someone-else@h/d",
        "port": "5000",
        "lease_s": "1",
        "retention_ms": "5m",
        "follow_strategy": "history",
        "ably_api_key": KEY,
    }
    before = Settings()
    documented = set(VARIABLES)
    for name in Settings.model_fields:
        if change(name) not in documented:  # ABLY_API_KEY is both
            bare.setenv(change(name), values.get(name, "7"))
    assert Settings() == before
    assert load_settings() == before


def test_a_variable_is_read_only_in_the_documented_spelling(bare):
    bare.setenv("rehydrate_port", "5000")
    assert load_settings().port == 8000


def test_code_gives_settings_by_the_names_of_the_attributes(bare):
    bare.setenv("REHYDRATE_PORT", "1")
    bare.setenv("REHYDRATE_HOST", "0.0.0.0")
    given = Settings(database_url="postgres://h/d", port=2, ably_api_key=KEY)
    assert (given.required_database_url(), given.port) == ("postgres://h/d", 2)
    assert (given.required_ably_key(), given.host) == (KEY, "0.0.0.0")
    assert Settings(**given.model_dump()) == given


def test_unknown_variables_are_named_on_one_line_without_their_values(bare, caplog):
    bare.setenv("REHYDRATE_SERVICE_KEY", "hush")
    bare.setenv("REHYDRATE_COLOUR", "hush")
    bare.setenv("REHYDRATE_LOCAL_ABLY_KEY", "hush")
    with caplog.at_level(logging.WARNING):
        load_settings()
    (line,) = caplog.messages
    assert line == (
        "ignored unknown variables: "
        "REHYDRATE_COLOUR, REHYDRATE_SERVICE_KEY (is REHYDRATE_SERVICE_KEYS meant?)"
    )
    caplog.clear()
    bare.delenv("REHYDRATE_SERVICE_KEY")
    bare.delenv("REHYDRATE_COLOUR")
    load_settings()
    assert not caplog.messages


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1


def test_given_values_take_precedence_over_the_environment(bare):
    bare.setenv("REHYDRATE_PORT", "1")
    assert load_settings(port=2).port == 2


@pytest.mark.parametrize(
    ("template", "channel", "conversation"),
    [
        ("ai:{conversation_id}", "ai:c:1", "c:1"),
        ("ai:{conversation_id}:x", "ai:c:x", "c"),
        ("ai:{conversation_id}:x", "ai:c", None),
        ("ai:{conversation_id}", "other:c", None),
        ("ai:{conversation_id}", "ai:", None),
        ("aa{conversation_id}aa", "aaa", None),
    ],
)
def test_the_template_maps_a_channel_to_its_conversation(template, channel, conversation):
    settings = load_settings(channel_template=template)
    assert settings.conversation_on(channel) == conversation
    if conversation is not None:
        assert settings.channel_of(conversation) == channel


def test_names_of_tokens_are_listed_and_may_not_be_those_that_mean_something_else():
    assert load_settings(REHYDRATE_TOKEN_NAMES="message, delta").token_names == ("message", "delta")
    with pytest.raises(NotConfigured, match=r"REHYDRATE_TOKEN_NAMES.*fixed meaning: stop"):
        load_settings(REHYDRATE_TOKEN_NAMES="message,stop")


def test_secrets_are_read_from_files(bare, tmp_path):
    files = {
        "REHYDRATE_DATABASE_URL": "postgres://u:p@h/d\n",
        "REHYDRATE_SERVICE_KEYS": "a-service-key-of-files\nanother-key-of-files\n",
        "REHYDRATE_WEBHOOK_SECRET": "webhook",
        "ABLY_API_KEY": f"{KEY}\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        bare.setenv(f"{name}_FILE", str(tmp_path / name))
    settings = load_settings()
    assert settings.required_database_url() == "postgres://u:p@h/d"
    assert revealed(settings.service_keys) == ["a-service-key-of-files", "another-key-of-files"]
    assert settings.webhook_secret.get_secret_value() == "webhook"
    assert settings.required_ably_key() == KEY


def test_a_file_that_cannot_be_read_or_is_one_too_many_is_named(bare, tmp_path):
    bare.setenv("ABLY_API_KEY_FILE", str(tmp_path / "absent"))
    with pytest.raises(
        NotConfigured, match=r"ABLY_API_KEY_FILE: cannot read .*absent.*No such file"
    ):
        load_settings()
    (tmp_path / "absent").write_bytes(b"\xff")
    with pytest.raises(NotConfigured, match=r"ABLY_API_KEY_FILE: cannot read .*not UTF-8"):
        load_settings()
    bare.setenv("ABLY_API_KEY", KEY)
    with pytest.raises(NotConfigured, match="ABLY_API_KEY and ABLY_API_KEY_FILE are both set"):
        load_settings()


def test_a_file_of_a_variable_without_secrets_is_unknown(bare, tmp_path, caplog):
    bare.setenv("REHYDRATE_PORT_FILE", str(tmp_path))
    assert load_settings().port == 8000
    assert "REHYDRATE_PORT_FILE" in caplog.text


def test_settings_are_described_without_secrets(bare):
    bare.setenv("REHYDRATE_SERVICE_KEYS", "a-service-key-of-mine,a-second-key-of-mine")
    bare.setenv("ABLY_API_KEY", KEY)
    bare.setenv("REHYDRATE_PORT", "9000")
    bare.setenv("REHYDRATE_CORS_ORIGINS", "https://a,https://b")
    shown = described(load_settings())
    assert shown.keys() == set(VARIABLES)
    assert shown["REHYDRATE_SERVICE_KEYS"] == "(hidden, 2 of them)"
    assert shown["ABLY_API_KEY"] == "(hidden)"
    assert shown["REHYDRATE_PORT"] == "9000"
    assert shown["REHYDRATE_HOST"] == "127.0.0.1  (default)"
    assert shown["REHYDRATE_CORS_ORIGINS"] == "https://a,https://b"
    assert "secret" not in str(shown)
    assert "of-mine" not in str(shown)
