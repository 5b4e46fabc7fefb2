"""The number of files and sockets that this process may have open, and the limits derived from it."""

from __future__ import annotations

import contextlib
import resource

RESERVE = 256
"""Descriptors for what is neither a connection of a client nor a stream: Postgres, Ably, files."""

_MOST = 1 << 20
_FEWEST_CONNECTIONS = 64


def raise_limit() -> None:
    """Raise this process's soft limit of open descriptors to the hard one.

    The usual soft limit, 1024, is meant for programs that use ``select``; a thousand open streams
    would reach it, and then not even health checks were accepted.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # some systems permit less than they report
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections() -> int:
    """Return how many connections of clients fit into the present limit of open descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = _MOST if soft == resource.RLIM_INFINITY else soft
    return max(_FEWEST_CONNECTIONS, soft - RESERVE)
