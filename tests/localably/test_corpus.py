"""Replay the inputs that the coverage-guided run of `fuzz_frames.py` kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from channel_server.fuzz_frames import frames_in, play

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


@pytest.mark.parametrize("seed", CORPUS, ids=[path.name for path in CORPUS])
def test_a_seed_is_answered_and_leaves_the_server_as_it_was(seed):
    play(seed.read_bytes())


def test_the_corpus_reaches_every_kind_of_frame():
    played = b"".join(b"".join(frames_in(path.read_bytes())[1]) for path in CORPUS)
    for word in (b"rewind", b"channelSerial", b"accessToken", b"presence", b"version"):
        assert word in played
