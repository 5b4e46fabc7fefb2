from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from rehydrate.api.logs import JsonLines, uvicorn_options


def record(message, *args, **more):
    made = logging.LogRecord("rehydrate.x", logging.WARNING, "f", 1, message, args, None)
    vars(made).update(more)
    return made


def test_a_record_is_one_line_of_json():
    line = JsonLines().format(record("a %s\nb", "é", fields={"status": 200}))
    assert "\n" not in line
    parsed = json.loads(line)
    assert parsed.pop("time").endswith("+00:00")
    assert parsed == {
        "level": "warning", "logger": "rehydrate.x", "message": "a é\nb", "status": 200
    }  # fmt: skip


def test_the_traceback_is_part_of_the_line():
    with pytest.raises(ValueError, match="not a number") as error:
        int("not a number")
    line = JsonLines().format(record("failed", exc_info=error._excinfo))
    assert "ValueError: invalid literal" in json.loads(line)["exception"]
    assert "\n" not in line


def test_logs_go_to_standard_error_and_nothing_to_standard_output():
    program = (
        "import logging; from rehydrate.api.logs import log_to_stderr; log_to_stderr();"
        "logging.getLogger('x').info('hello'); logging.getLogger('x').debug('not this')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert json.loads(line)["message"] == "hello"


def test_uvicorns_access_log_is_off():
    assert uvicorn_options()["access_log"] is False
