from __future__ import annotations

import inspect

import pytest

from api.standin import StandIn
from rehydrate.api.service import Service
from rehydrate.follow.subscriptions import Subscriptions
from rehydrate.history import History

READER_CALLS = {"hydrate", "joined"}

CALLS = [
    (protocol, kind, name)
    for protocol, kinds in (
        (Service, (History, StandIn)),
        (Subscriptions, (StandIn,)),
    )
    for kind in kinds
    for name, call in vars(protocol).items()
    if inspect.isfunction(call) and not name.startswith("_")
    if protocol is Service or name in READER_CALLS
]


@pytest.mark.parametrize(("protocol", "kind", "call"), CALLS)
def test_services_accept_the_calls_of_the_protocol(protocol, kind, call):
    """For History mypy checks this; for the stand-in, names and kinds of arguments are compared."""
    wanted = inspect.signature(getattr(protocol, call)).parameters
    offered = inspect.signature(getattr(kind, call)).parameters
    waits = inspect.iscoroutinefunction(getattr(protocol, call))
    assert inspect.iscoroutinefunction(getattr(kind, call)) == waits
    assert [(p.name, p.kind) for p in offered.values()] == [
        (p.name, p.kind) for p in wanted.values()
    ]
