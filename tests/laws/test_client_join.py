"""The JavaScript client when attaching or hydrating fails while it joins."""

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


def test_a_reader_without_faults_hydrates_once():
    assert played("calm") == {"shown": "a", "asked": 1, "failure": None}


def test_text_dropped_before_the_answer_arrives_leaves_no_wrong_join():
    assert played("torn") == {"shown": "abc", "asked": 2, "failure": None}


def test_a_channel_that_failed_is_attached_again():
    assert played("refused") == {"shown": "ab", "asked": 2, "failure": None}


def test_a_reader_that_has_joined_retries_without_end():
    assert played("away") == {"shown": "a", "asked": 32, "failure": None}


def test_a_reader_that_cannot_join_gets_the_error():
    told = played("nobody answers")
    assert told == {"shown": "", "asked": 11, "failure": "503"}


def test_leaving_a_channel_that_failed_is_no_error():
    assert played("closed")["failure"] is None


def test_it_keeps_only_the_shown_part_of_ended_messages():
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
    assert told["ids"] == 1  # of the open message
    assert told["chains"] <= 21
    assert told["open"] == ["open", "open!"]
