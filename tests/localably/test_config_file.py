from __future__ import annotations

import re
from pathlib import Path

import pytest

from localably.config_file import apps_from, read_config, settings_from
from localably.errors import RefusedError
from localably.webhooks import rule_from

EXAMPLE = """
[settings]
retention_s = 5
max_message_bytes = 1000

[[apps]]
keys = ["app.one:secret", { value = "app.two:secret", capability = '{"a":["subscribe"]}' }]
namespaces = [{ id = "ai", mutable = true, retention_s = 60 }]

[[webhooks]]
url = "http://127.0.0.1:9/hook"
batched = true
"""


def test_the_file_contains_settings_apps_and_webhooks(tmp_path):
    path = tmp_path / "localably.toml"
    path.write_text(EXAMPLE)
    config = read_config(path)
    assert settings_from(config["settings"]).retention_s == 5
    [app] = apps_from(config["apps"])
    assert sorted(app.keys) == ["app.one", "app.two"]
    assert str(app.keys["app.two"].capability) == '{"a":["subscribe"]}'
    assert app.namespaces["ai"].retention_s == 60
    assert set(app.namespaces) == {"ai", "mutable", "persisted"}
    assert config["webhooks"][0]["batched"] is True


@pytest.mark.parametrize("text", ["x", "[other]\n", "a = 1", "\x00"])
def test_an_invalid_file_is_refused_with_its_path(tmp_path, text):
    path = tmp_path / "localably.toml"
    path.write_text(text)
    with pytest.raises(RefusedError, match=r"localably\.toml"):
        read_config(path)


@pytest.mark.parametrize(
    "item", [{"no_such": 1}, {"retention_s": "x"}, {"rewind_limit": 1.5}, {"retention_s": -1}]
)
def test_an_unknown_setting_is_named(item):
    with pytest.raises(RefusedError, match=next(iter(item))):
        settings_from(item)


def test_the_example_of_the_documentation_is_a_config_file(tmp_path):
    document = Path(__file__).parents[2] / "docs" / "localably.md"
    [example] = re.findall(r"```toml\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "localably.toml"
    path.write_text(example, encoding="utf-8")
    config = read_config(path)
    assert settings_from(config["settings"]).retention_s == 120
    [app] = apps_from(config["apps"])
    assert app.namespaces["ai"].mutable
    assert rule_from(config["webhooks"][0]).batched
