"""Channel messages in which any field has any value: no reader raises, and all show the same."""

from __future__ import annotations

import os

import pytest

from laws.fuzzing import drawn, in_python, in_service, is_shown_otherwise_by_rest

CASES = int(os.environ.get("FUZZ_CASES", "2000"))
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
pytestmark = pytest.mark.timeout(300 + CASES // 20)


def test_a_view_and_the_service_show_the_same_of_fuzzed_messages():
    differing, compared = [], 0
    for seed in range(FIRST, FIRST + CASES):
        case = drawn(seed)
        view, service = in_python(case), in_service(case)
        if view["at"] >= 0 or is_shown_otherwise_by_rest(case):
            continue  # the view asks for a hydrate, or REST shows it otherwise
        compared += 1
        if view["messages"] != service:
            differing.append(seed)
    print(f"{CASES} cases, {compared} compared, {len(differing)} differ")
    assert compared > CASES // 2
    assert not differing, differing[:3]
