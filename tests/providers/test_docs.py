"""The table in the docs is made from the code: `python tests/providers/test_docs.py` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from rehydrate.providers import openai_assistants, openai_responses

PAGE = Path(__file__).parents[2] / "docs" / "providers.md"
TABLE = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end of table -->)", re.DOTALL)


def table() -> str:
    """What becomes of every vendor event, as the code says."""
    lines = []
    for title, rules in (
        ("Responses API", openai_responses.RULES),
        ("Assistants API", openai_assistants.RULES),
    ):
        lines += ["", f"### {title}", "", "| event | typed event | said in the conversation |"]
        lines.append("|---|---|---|")
        lines += [f"| `{name}` | {rule.typed} | {rule.said} |" for name, rule in rules.items()]
        lines.append("| any other | Unknown, counted | nothing |")
    return "\n".join(lines) + "\n\n"


def test_the_table_in_the_docs_is_what_the_code_does():
    assert TABLE.search(PAGE.read_text(encoding="utf-8"))[0] == table()


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
