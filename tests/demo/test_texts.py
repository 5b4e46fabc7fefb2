"""What the demo's agent says can be told by anybody, and is hard to keep whole."""

from __future__ import annotations

import unicodedata

from rehydrate.demo.texts import tokens_of


def test_the_same_id_gives_the_same_tokens():
    assert tokens_of("a") == tokens_of("a")
    assert tokens_of("a") != tokens_of("b")


def test_tokens_are_about_as_many_as_was_asked_for_and_never_empty():
    for number in range(50):
        tokens = tokens_of(str(number), mean=20)
        assert 10 <= len(tokens) <= 30
        assert all(tokens)


def test_the_texts_hold_what_breaks_careless_readers():
    said = "".join("".join(tokens_of(str(number))) for number in range(10))
    for kind in ("か", "👨‍👩‍👧‍👦", "🇯🇵", "e\u0301", "म", "م", "<b>", "\r\n", "\\", '"', "𝔘"):
        assert kind in said
    assert unicodedata.normalize("NFC", said) != said


def test_tokens_are_cut_within_clusters():
    joined = [tokens_of(str(number)) for number in range(20)]
    assert any(unicodedata.combining(token[0]) for tokens in joined for token in tokens)
    assert any(token[0] == "\u200d" for tokens in joined for token in tokens)
