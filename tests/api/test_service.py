from __future__ import annotations

import inspect

import pytest

from api.standin import StandIn
from rehydrate.api.service import Service
from rehydrate.history import History

CALLS = [name for name in vars(Service) if not name.startswith("_")]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", [History, StandIn])
def test_services_accept_the_calls_of_the_protocol(kind, call):
    """For History mypy checks this; for the stand-in, names and kinds of arguments are compared."""
    wanted = inspect.signature(getattr(Service, call)).parameters
    offered = inspect.signature(getattr(kind, call)).parameters
    waits = inspect.iscoroutinefunction(getattr(Service, call))
    assert inspect.iscoroutinefunction(getattr(kind, call)) == waits
    assert [(p.name, p.kind) for p in offered.values()] == [
        (p.name, p.kind) for p in wanted.values()
    ]
