"""The embedded Postgres: a real server with all its files in one folder, for demos and tests."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rehydrate.embedded.binaries import clean_environment, find_binaries, run_as
from rehydrate.embedded.cluster import Cluster, reachable_name
from rehydrate.embedded.folder import EmbeddedError
from rehydrate.embedded.server import EmbeddedServer, Launch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehydrate.embedded.binaries import Binaries, RunAs

__all__ = ["EmbeddedError", "EmbeddedPostgres"]


class EmbeddedPostgres(EmbeddedServer):
    """A Postgres server; see `EmbeddedServer` for when it runs.

    Its folder contains `data/` (with the unix socket), `password` (mode 0600), `port`, `log`,
    `log.1` and two locks.

    If the owner is root, the server runs as the owner of `data/`, else as `postgres` or `nobody`.
    No user is created, and only `data/` gets another owner or mode, even if the folder is below a
    home that only root may enter.

    Args:
        folder: the folder; it is created if it does not exist.
        bindir: the folder of PostgreSQL's programs; None: see `find_binaries`.
        start_timeout_s: how long `start` waits for the server, in seconds.
    """

    name = "PostgreSQL"

    def __init__(
        self, folder: Path, *, bindir: Path | None = None, start_timeout_s: float = 60.0
    ) -> None:
        super().__init__(folder, start_timeout_s=start_timeout_s)
        self._cluster = Cluster(self.folder)
        self._bindir = bindir
        self._binaries: Binaries | None = None
        self._user: RunAs | None = None

    @property
    def url(self) -> str:
        """The libpq URL of the running server, over TCP on 127.0.0.1, with its password."""
        return self._cluster.url(by_socket=False)

    @property
    def socket_url(self) -> str:
        """The libpq URL of the running server, over its unix socket."""
        return self._cluster.url(by_socket=True)

    @property
    def port(self) -> int:
        """The port of the running server."""
        return self._cluster.postmaster().port

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._cluster.postmaster().pid

    def answers(self) -> bool:
        """Return True if a server has reported that it is ready, and accepts connections."""
        return self._cluster.answers()

    def _prepare(self) -> None:
        cluster = self._cluster
        self._user = run_as(cluster.data)
        major = cluster.major()
        self._binaries = find_binaries(self._bindir, self._user, major)
        if not cluster.data.exists():
            cluster.make(self._binaries, self._user)
        cluster.adopt(major or self._binaries.major, self._user)

    @contextmanager
    def _launching(self, port: int) -> Iterator[Launch]:
        if self._binaries is None:
            raise EmbeddedError("the data folder was not prepared")
        with reachable_name(self._cluster.data, self._user) as (name, fds):
            command = self._cluster.command(self._binaries, name, port)
            yield Launch(command, clean_environment(), self._user, fds)
