"""The client's duty in JavaScript, where attaching and asking go wrong in the middle of it."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from laws.test_client_js import CLIENT, HERE

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")


def played(scene):
    ran = subprocess.run(
        ["node", HERE / "join.mjs", CLIENT.as_uri(), scene],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_a_reader_that_nothing_befalls_asks_once():
    assert played("calm") == {"shown": "a", "asked": 1, "failure": None}


def test_what_was_dropped_while_the_answer_was_awaited_is_not_glued_over():
    assert played("torn") == {"shown": "abc", "asked": 2, "failure": None}


def test_a_channel_that_failed_is_attached_again():
    assert played("refused") == {"shown": "ab", "asked": 2, "failure": None}


def test_a_reader_that_has_begun_never_gives_up():
    assert played("away") == {"shown": "a", "asked": 32, "failure": None}


def test_a_reader_that_cannot_begin_is_told_why():
    told = played("nobody answers")
    assert told == {"shown": "", "asked": 11, "failure": "503"}


def test_leaving_a_channel_that_failed_is_no_error():
    assert played("closed")["failure"] is None


def test_it_holds_no_more_than_is_shown_of_what_has_ended():
    ran = subprocess.run(
        ["node", HERE / "holding.mjs", CLIENT.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["texts"] == ["ab"] * 200 + ["open"]
    assert told["ids"] == 1  # of the one that is open
    assert told["chains"] <= 21
    assert told["open"] == ["open", "open!"]
