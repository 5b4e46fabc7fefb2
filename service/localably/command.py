"""The command line: `python -m localably`, and `rehydrate local-ably`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from .config_file import apps_from, read_config, settings_from
from .errors import RefusedError
from .server import LocalAbly
from .tls import CERTIFICATE
from .webhooks import rule_from

_LOG = logging.getLogger("localably")


def parser(prog: str = "localably") -> argparse.ArgumentParser:
    """Return the options of the command."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="A local channel server that speaks Ably's protocol, for development.",
    )
    made.add_argument(
        "--port", type=int, default=8081, help="port on 127.0.0.1; 0 takes a free one"
    )
    made.add_argument(
        "--key", action="append", default=[], help="an API key, appId.keyId:secret; may be repeated"
    )
    made.add_argument("--config", type=Path, help="apps, namespaces, webhooks and settings (TOML)")
    made.add_argument("--data-dir", type=Path, help="keep persisted channels in this folder")
    made.add_argument(
        "--tls", type=Path, metavar="FOLDER",
        help="serve over TLS, with a self-signed certificate that is kept in this folder",
    )  # fmt: skip
    made.add_argument("--retention", type=float, help="seconds of history without persistence")
    return made


def main(argv: Sequence[str] | None = None, prog: str = "localably") -> int:
    """Run the server until SIGTERM or SIGINT; return the exit code."""
    options = parser(prog).parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
    try:
        server = _server(options)
        with _runner() as runner:
            runner.run(_serve(server, options))
    except BrokenPipeError:
        return 1
    except (RefusedError, OSError) as error:
        print(f"{prog}: {error}", file=sys.stderr)  # noqa: T201 - the command's own output
        return 2
    return 0


def _server(options: argparse.Namespace) -> LocalAbly:
    config = read_config(options.config) if options.config is not None else {}
    apps = apps_from(config.get("apps", []))
    if options.key and apps:
        raise RefusedError(40000, "give keys by --key or in the config file, not both")
    return LocalAbly(
        port=options.port,
        keys=options.key,
        apps=apps,
        data_dir=options.data_dir,
        tls_dir=options.tls,
        retention_s=options.retention,
        webhooks=[rule_from(item) for item in config.get("webhooks", [])],
        settings=settings_from(config.get("settings", {})),
    )


async def _serve(server: LocalAbly, options: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with server:
        _collect_rarely()
        if not (options.key or options.config):
            # a key that was made here and now, so that there is something to connect with
            _LOG.info("made the key %s", server.key)
        if options.tls is not None:
            _LOG.info("certificate: %s", options.tls / CERTIFICATE)
        _announce(server.url)
        await stopped.wait()


def _announce(url: str) -> None:
    """Print the line that a starting program waits for.

    Raises:
        OSError: standard output does not accept it.
    """
    try:
        print(f"ready {url}", flush=True)  # noqa: T201 - the command's own output
    except OSError:  # or the interpreter's flush at exit fails, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _collect_rarely() -> None:
    """Exclude loaded code and stored messages from garbage collection.

    There are so many live objects that scanning them would pause all connections.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 1_000)


def _runner() -> asyncio.Runner:
    """Return a runner on uvloop where it is installed: it halves the cost of each write."""
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - optional

        return asyncio.Runner(loop_factory=uvloop.new_event_loop)
    return asyncio.Runner()
