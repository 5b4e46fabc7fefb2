"""The documents agree with the code."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from rehydrate.core.event import Kind
from rehydrate.core.fold import STEPS

DOCS = Path(__file__).parent.parent / "docs"
WORDS = {
    "_prompt": "set the text, and end",
    "_later_version_of_prompt": "extend it, if it consists of several channel messages",
    "_start": "begin the message",
    "_late_start": "record the start, if none was read",
    "_content": "append, or insert by seq",
    "_fill": "fill a gap",
    "_stop": "end the message",
    "_repair": "replace the text it covers",
}


def test_the_table_of_states_matches_the_fold():
    rows = ["| event | open | ended |", "|---|---|---|"]
    for kind in get_args(Kind):
        steps = [STEPS.get((phase, kind)) for phase in ("open", "ended")]
        said = [WORDS[step.__name__] if step else "–" for step in steps]
        rows.append(f"| `{kind}` | {said[0]} | {said[1]} |")
    text = (DOCS / "states.md").read_text()
    table = text.partition("<!-- steps -->\n")[2].partition("\n<!-- /steps -->")[0]
    assert sorted(table.splitlines()) == sorted(rows)


def test_every_decision_record_has_its_sections_and_at_most_60_lines():
    for path in (DOCS / "decisions").glob("*.md"):
        text = path.read_text()
        assert len(text.splitlines()) <= 60, path.name
        for heading in ("Status", "Context", "Decision", "Consequences"):
            assert heading in text, f"{path.name} lacks {heading}"
