"""The table in the docs equals the code; `python tests/providers/test_docs.py` updates it."""

from __future__ import annotations

import re
from pathlib import Path

from rehydrate.providers import openai_assistants, openai_chat, openai_responses

PAGE = Path(__file__).parents[2] / "docs" / "providers.md"
TABLE = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end of table -->)", re.DOTALL)


def table() -> str:
    """Return the translation of every vendor event as Markdown."""
    lines = []
    for title, rules in (
        ("Responses API", openai_responses.RULES),
        ("Chat Completions API", openai_chat.RULES),
        ("Assistants API", openai_assistants.RULES),
    ):
        lines += ["", f"### {title}", "", "| event | typed event | effect on the conversation |"]
        lines.append("|---|---|---|")
        lines += [f"| `{name}` | {rule.typed} | {rule.effect} |" for name, rule in rules.items()]
        lines.append("| any other | Unknown, counted | nothing |")
    return "\n".join(lines) + "\n\n"


def test_the_table_in_the_docs_equals_the_rules():
    assert TABLE.search(PAGE.read_text(encoding="utf-8"))[0] == table()


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
