"""Ably's address, as options of the SDK's REST and realtime clients."""

from __future__ import annotations

from typing import Any, NamedTuple

from ably.transport.defaults import Defaults
from ably.transport.websockettransport import WebSocketTransport


class Endpoint(NamedTuple):
    """Ably's default address (None), a routing policy, or a host; *port* if not the default."""

    name: str | None = None
    port: int | None = None
    tls: bool = True

    def rest_options(self) -> dict[str, Any]:
        """Return the options for an ``AblyRest``."""
        options: dict[str, Any] = {"tls": self.tls}
        if self.name is not None:
            options["endpoint"] = self._host if self.port is not None else self.name
        if self.port is not None:
            options["tls_port" if self.tls else "port"] = self.port
        return options

    def realtime_options(self) -> dict[str, Any]:
        """Return the options for an ``AblyRealtime``.

        Its WebSocket ignores the port option (gap 1), so the port is put into the host name. An SDK
        that reads the option gets the option instead, since a name with a port would be wrong then.
        """
        if self.port is None or _websocket_reads_port():
            return self.rest_options()
        return {"tls": self.tls, "endpoint": f"{self._host}:{self.port}"}

    @property
    def _host(self) -> str:
        host: str = Defaults.get_hostname(self.name or Defaults.endpoint)
        return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _websocket_reads_port() -> bool:
    return any("port" in name for name in WebSocketTransport.connect.__code__.co_names)
