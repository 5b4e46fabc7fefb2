"""The demo agent's texts are reproducible and contain difficult Unicode."""

from __future__ import annotations

import unicodedata

from rehydrate.demo.texts import tokens_of


def test_the_same_id_gives_the_same_tokens():
    assert tokens_of("a") == tokens_of("a")
    assert tokens_of("a") != tokens_of("b")


def test_the_number_of_tokens_is_about_the_mean_and_none_is_empty():
    for number in range(50):
        tokens = tokens_of(str(number), mean=20)
        assert 10 <= len(tokens) <= 30
        assert all(tokens)


def test_the_texts_contain_difficult_unicode():
    text = "".join("".join(tokens_of(str(number))) for number in range(10))
    for kind in ("か", "👨‍👩‍👧‍👦", "🇯🇵", "e\u0301", "म", "م", "<b>", "\r\n", "\\", '"', "𝔘"):
        assert kind in text
    assert unicodedata.normalize("NFC", text) != text


def test_tokens_are_cut_within_grapheme_clusters():
    joined = [tokens_of(str(number)) for number in range(20)]
    assert any(unicodedata.combining(token[0]) for tokens in joined for token in tokens)
    assert any(token[0] == "\u200d" for tokens in joined for token in tokens)
