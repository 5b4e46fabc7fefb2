"""Run the chat: ``python -m chat_backend`` in this folder's parent, with the variables set.

`make demo` does this for you, and starts a Postgres, a channel server and a scripted model for those
that you have not configured.
"""

from __future__ import annotations

import socket
import sys

import uvicorn
from openai import AsyncOpenAI, OpenAIError
from pydantic import ValidationError

from chat_backend.app import create_app
from chat_backend.settings import ChatSettings
from rehydrate import History
from rehydrate.errors import NotConfigured

_CLOSED = """\
chat: CHAT_API=assistants: OpenAI closed that API in August 2026. Set OPENAI_BASE_URL to a server that \
still has it, for example python -m scripted_openai.
"""


class Server(uvicorn.Server):
    """Prints ``ready <url>`` once it accepts connections."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            sys.stdout.write(f"ready http://{host}:{port}\n")
            sys.stdout.flush()


def main() -> int:
    """Serve until SIGTERM or Ctrl-C; return 2 if a setting is missing or invalid."""
    try:
        settings, client = ChatSettings(), AsyncOpenAI()
        app = create_app(settings, History(), client)
    except (NotConfigured, OpenAIError, ValidationError) as error:
        sys.stderr.write(f"chat: {error}\n")
        return 2
    if settings.api == "assistants" and client.base_url.host == "api.openai.com":
        sys.stderr.write(_CLOSED)
        return 2
    config = uvicorn.Config(
        app, settings.host, settings.port, log_level="warning", timeout_graceful_shutdown=5
    )
    Server(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
