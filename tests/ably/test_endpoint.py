from __future__ import annotations

import pytest
from ably import AblyRest
from ably.transport.websockettransport import WebSocketTransport

from rehydrate.ably.endpoint import Endpoint


@pytest.mark.parametrize(
    ("endpoint", "rest", "realtime"),
    [
        (Endpoint(), {"tls": True}, {"tls": True}),
        (Endpoint("main"), {"tls": True, "endpoint": "main"}, {"tls": True, "endpoint": "main"}),
        (
            Endpoint("127.0.0.1", 8081, tls=False),
            {"tls": False, "endpoint": "127.0.0.1", "port": 8081},
            {"tls": False, "endpoint": "127.0.0.1:8081"},
        ),
        (
            Endpoint("main", 8443),
            {"tls": True, "endpoint": "main.realtime.ably.net", "tls_port": 8443},
            {"tls": True, "endpoint": "main.realtime.ably.net:8443"},
        ),
        (
            Endpoint("::1", 8081, tls=False),
            {"tls": False, "endpoint": "[::1]", "port": 8081},
            {"tls": False, "endpoint": "[::1]:8081"},
        ),
    ],
)
def test_the_port_is_set_where_each_sdk_client_reads_it(endpoint, rest, realtime):
    assert endpoint.rest_options() == rest
    assert endpoint.realtime_options() == realtime


async def test_the_sdk_accepts_a_host_name_with_a_port():
    options = Endpoint("127.0.0.1", 8081, tls=False).realtime_options()
    async with AblyRest(token="t", **options) as client:
        assert client.options.get_host() == "127.0.0.1:8081"
        assert client.options.get_fallback_hosts() == []


def test_a_websocket_that_reads_the_port_option_gets_it_there(monkeypatch):
    def connect(self):
        return self.options.tls_port

    monkeypatch.setattr(WebSocketTransport, "connect", connect)
    endpoint = Endpoint("127.0.0.1", 8081, tls=False)
    assert endpoint.realtime_options() == endpoint.rest_options()
