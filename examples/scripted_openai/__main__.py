"""Serve the scripted model: ``python -m scripted_openai [--port P] [--tokens-a-second N]``.

It prints ``ready <url>``; set OPENAI_BASE_URL to `<url>/v1`.
"""

from __future__ import annotations

import argparse
import socket
import sys

import uvicorn

from scripted_openai.endpoint import ScriptedEndpoint
from scripted_openai.model import answer


def main() -> int:
    """Serve on loopback until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="scripted_openai", description=__doc__)
    parser.add_argument("--port", type=int, default=9090, help="0 picks a free one (default: 9090)")
    parser.add_argument(
        "--tokens-a-second", type=float, default=15.0, help="pace of an answer (default: 15)"
    )
    options = parser.parse_args()
    endpoint = ScriptedEndpoint(answer, pace_s=1 / options.tokens_a_second)
    with socket.create_server(("127.0.0.1", options.port)) as listening:
        sys.stdout.write(f"ready http://127.0.0.1:{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        config = uvicorn.Config(
            endpoint.app, lifespan="off", log_level="warning", timeout_graceful_shutdown=1
        )
        uvicorn.Server(config).run([listening])
    return 0


if __name__ == "__main__":
    sys.exit(main())
