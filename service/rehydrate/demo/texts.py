"""The demo agent's texts, derived from the response id so that any process can verify them."""

from __future__ import annotations

from random import Random

_PHRASES = (
    "The tide turns twice a day, and nobody has to ask it. ",
    "むかしむかし、あるところに、おじいさんとおばあさんがいました。",
    "Привет, мир! ",
    "👩🏽‍🚀 launched; 👨‍👩‍👧‍👦 waved; 🇯🇵🇫🇷 flags. ",
    "e\u0301tude, nai\u0308ve, Z\u0351\u0343a\u0323\u0308lgo\u0300. ",
    "مرحبا بالعالم ",
    'x² + y² = z², “quoted”, <b>not markup</b> & \\escaped\\ "json". ',
    "नमस्ते दुनिया। ",
    "\tA line,\nand another.\r\n",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 beyond the basic plane 𠮷野家. ",
)


def tokens_of(response_id: str, *, mean: int = 90) -> list[str]:
    """Return the tokens of a response, about *mean* of them, cut at arbitrary characters."""
    random = Random(response_id)  # noqa: S311 - reproducible on purpose
    count = random.randint(mean // 2, mean + mean // 2)
    tokens: list[str] = []
    while len(tokens) < count:
        phrase = random.choice(_PHRASES)
        while phrase:
            cut = random.randint(1, 8)
            tokens.append(phrase[:cut])
            phrase = phrase[cut:]
    return tokens[:count]
