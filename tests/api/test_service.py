from __future__ import annotations

import inspect

import pytest

from api.standin import StandIn
from rehydrate.api.service import ReaderCalls, Service
from rehydrate.history import History

CALLS = [
    (kind, name)
    for kind in (History, StandIn)
    for name, call in vars(Service).items()
    if inspect.isfunction(call) and not name.startswith("_")
]


@pytest.mark.parametrize(("kind", "call"), CALLS)
def test_services_accept_the_calls_of_the_protocol(kind, call):
    """For History mypy checks this; for the stand-in, names and kinds of arguments are compared."""
    wanted = inspect.signature(getattr(Service, call)).parameters
    offered = inspect.signature(getattr(kind, call)).parameters
    waits = inspect.iscoroutinefunction(getattr(Service, call))
    assert inspect.iscoroutinefunction(getattr(kind, call)) == waits
    assert [(p.name, p.kind) for p in offered.values()] == [
        (p.name, p.kind) for p in wanted.values()
    ]


def test_the_stand_in_offers_the_calls_of_readers():
    assert all(callable(getattr(StandIn(), call)) for call in ReaderCalls._fields)
