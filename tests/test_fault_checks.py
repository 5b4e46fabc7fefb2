from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from fault_checks import every_fault_fires, remote_fault
from localably import LocalAbly
from localably.faults import Faults

HERE = Path(__file__).parent
ASSERTED_THERE = {
    "fault_checks.py",  # `remote_fault` asserts it
    "soak/faults.py",  # a fault that never fires is a finding
    "chaos/faults.py",  # as above
    "localably/test_control.py",  # tests the requests themselves
}
"""Where faults may be switched on by an HTTP request."""


def switch_on(name, **parameters):
    return Faults().set(name, **parameters)


@pytest.mark.faults_may_not_fire
def test_a_fault_that_never_fires_fails_the_test():
    def silent():
        with every_fault_fires():
            switch_on("lose_acks")
            switch_on("freeze")

    with pytest.raises(AssertionError, match="never fired: lose_acks, freeze"):
        silent()


def test_a_fault_that_fires_or_only_counts_passes():
    with every_fault_fires():
        fault = switch_on("lose_acks", nth=2)
        assert [fault.fires(None), fault.fires(None)] == [False, True]
        probe = switch_on("delay_history", count=0)
        assert [probe.fires(None), probe.asked] == [False, 1]


@pytest.mark.faults_may_not_fire
def test_the_error_of_a_failing_test_is_not_replaced():
    def fails():
        with every_fault_fires():
            switch_on("lose_acks")
            raise KeyError("the finding")

    with pytest.raises(KeyError, match="the finding"):
        fails()


def test_every_other_test_is_checked():
    assert Faults.set.__qualname__.startswith("every_fault_fires.")


@pytest.mark.faults_may_not_fire
def test_a_marked_test_is_not_checked():
    assert Faults.set.__qualname__ == "Faults.set"


@pytest.mark.faults_may_not_fire
async def test_a_remote_fault_has_to_fire():
    async with LocalAbly() as server:
        with pytest.raises(AssertionError, match="never fired: lose_acks"):
            async with remote_fault(server.url, "lose_acks", count=0) as fired:
                assert await fired() == 0
        async with remote_fault(server.url, "lose_acks") as fired:
            server.faults.now("lose_acks")
            assert await fired() == 1


def test_faults_are_switched_on_by_http_only_where_that_is_asserted():
    using = set()
    for path in HERE.rglob("*.py"):
        if "node_modules" in path.parts or path == Path(__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and re.match(r"(.*/)?localably/faults|faults/", text):
                using.add(path.relative_to(HERE).as_posix())
    assert using == ASSERTED_THERE
