"""The table of `docs/failures.md`: a row for each fault, written by its test."""

from __future__ import annotations

import re
from pathlib import Path

from generated_table import GeneratedTable, one_line

NUMBERS = [f"F{n:02}" for n in range(1, 18)]
RECOVERY = 4
TABLE = GeneratedTable(
    Path(__file__).parents[2] / "docs" / "failures.md",
    "| # | fault | a reader sees | a publisher sees | right again after | log | metric | `/readyz` |",
    NUMBERS,
    target="failures",
    measured=(RECOVERY,),
)

LATE = ("200, a fault of `tasks`", "no answer")
"""Answers on a busy machine: background tasks are late, or the answer itself."""


def pattern_of(line):
    """Return the expression for a log line in which "…" stands for what varies."""
    return re.compile(".*".join(re.escape(part) for part in line.split("…")))


class FailureRow:
    """The row of a test `test_f01_…`, whose docstring describes the fault."""

    def __init__(self, request):
        self.number = re.match(r"test_(f\d\d)_", request.node.name)[1].upper()
        self._fault = one_line(request.node.obj.__doc__)

    def shows(
        self,
        watch,
        *,
        publisher,
        reader=(),
        reader_maybe=(),
        log=None,
        metric=None,
        ready=(),
        ready_maybe=(),
    ):
        """Assert that all of it was observed, and nothing else, and record it.

        Args:
            watch: the observations.
            publisher: outcomes of the response before the fault, and of one that began meanwhile.
            reader: answers other than a complete 200.
            reader_maybe: answers that depend on the moment.
            log: a line of the services' logs, with "…" for what varies.
            metric: a sample that grew.
            ready: answers of `/readyz` other than 200.
            ready_maybe: those that depend on the moment.
        """
        slow = "200 with `history_unavailable`"  # at any fault, if the machine is too busy for a time limit
        assert _are(watch.hydrates, reader, (*reader_maybe, slow)), watch.hydrates
        assert _are(watch.ready, ready, ready_maybe), watch.ready
        assert watch.outcomes == publisher, watch.outcomes
        if log is not None:
            pattern = pattern_of(log)
            assert any(pattern.fullmatch(line) for line in watch.logged()), watch.logged()
        assert metric is None or metric in watch.grown, watch.grown
        seen = [_listed(reader, reader_maybe)] if reader or reader_maybe else []
        seen.append("its stream goes on" if watch.follower.joins == 1 else "its stream ends")
        unusual = sorted(set(watch.statuses.values()) - {"completed"})
        seen += [f"the response is `{status}`" for status in unusual]
        TABLE.add(
            self.number,
            [
                self._fault,
                "; ".join(seen),
                "; ".join(_outcome(*each) for each in publisher.items()) or "it is gone",
                f"{watch.recovery_s:.0f} s",
                log or "–",
                f"`{metric}`" if metric else "–",
                _listed(ready or ["200"], ready_maybe),
            ],
        )


def _are(observed, always, maybe):
    return set(always) <= observed <= {"200", *LATE, *always, *maybe}


def _listed(always, maybe):
    return ", ".join([*always, *(f"maybe {each}" for each in maybe)])


def _outcome(name, outcome):
    text = outcome if outcome == "completed" else f"`{outcome}`"
    return text if name == "before" else f"one that begins meanwhile: {text}"
