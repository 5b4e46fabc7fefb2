"""The command line. Results go to standard output, logs and progress to standard error.

Exit codes: 0 success, 1 failure, 2 invalid usage or missing configuration, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version
from typing import Any, TypeVar

from rehydrate.cli.output import (
    NotWritten,
    PrintableOutput,
    open_standard_streams,
    printable,
    printable_output,
)
from rehydrate.core.replay.schedule import MODES, ReplayTerms
from rehydrate.errors import BadRequest, NotConfigured, RehydrateError

T = TypeVar("T")

_logger = logging.getLogger("rehydrate")

_EPILOG = """\
settings are read from the environment; the most important ones:
  REHYDRATE_DATABASE_URL   Postgres, any libpq connection string
  ABLY_API_KEY             appId.keyId:secret
  REHYDRATE_SERVICE_KEYS   secrets of backends, comma-separated
  REHYDRATE_ADMIN_KEYS     secrets of admins, comma-separated
  REHYDRATE_RETENTION      how long Ably keeps channel history (default: 2m)
  REHYDRATE_DATA_DIR       folder for the embedded Postgres and channel server
`demo` and `serve --embedded` start a Postgres and a local channel server where
these are not set. The README lists all settings.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    open_standard_streams()
    options = _parser().parse_args(argv)
    _log(options)
    try:
        with printable_output():
            return int(options.run(options))
    except NotWritten as error:  # for example `| head`, which needs no message
        return _complain(error, 1) if error.is_fault else 1
    except (NotConfigured, BadRequest) as error:
        return _complain(error, 2)
    except RehydrateError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return 130


def _log(options: Any) -> None:
    """Log to standard error: JSON lines for the server, plain text for the other commands."""
    level = logging.DEBUG if options.verbose else logging.INFO
    level = logging.WARNING if options.quiet else level
    logging.basicConfig(
        stream=PrintableOutput(sys.stderr),
        level=level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if options.run is _run_serve:
        from rehydrate.api.telemetry import log_to_stderr  # noqa: PLC0415 - only a server needs it

        log_to_stderr(level)
    for noisy in ("httpx", "httpcore", "alembic"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    if not options.verbose:  # the SDK logs tracebacks of errors that it also raises
        logging.getLogger("ably").setLevel(logging.CRITICAL)


def _complain(error: Exception, code: int) -> int:
    with contextlib.suppress(OSError):  # nothing is left to complain to
        sys.stderr.write(printable(f"rehydrate: {error}\n"))
        sys.stderr.flush()
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rehydrate",
        description="History hydration and replay for AI conversations that stream over Ably.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log debug messages (never message text)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="log warnings and errors only")
    parser.add_argument("--version", action="version", version=f"rehydrate {version('rehydrate')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_serving(commands)
    _add_reading(commands)
    agent = commands.add_parser("agent")  # started by `demo`; without help text it is not listed
    agent.add_argument("conversation")
    agent.add_argument("--seconds", type=float)
    agent.set_defaults(run=_run_agent)
    example = commands.add_parser("example")  # also started by `demo`
    example.add_argument("name")
    example.add_argument("argv", nargs="*")
    example.set_defaults(run=_run_example)
    return parser


def _add(commands: Any, name: str, text: str, run: Callable[[Any], int]) -> Any:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run)
    return command


def _add_demo(commands: Any) -> None:
    demo = _add(
        commands,
        "demo",
        "run the service on embedded defaults, with an agent that streams responses",
        _run_demo,
    )
    demo.add_argument(
        "--check",
        action="store_true",
        help="join at random moments, compare every character, report lost and duplicated ones",
    )
    demo.add_argument("--joins", type=_count, default=50, help="number of joins (default: 50)")
    demo.add_argument(
        "--json", action="store_true", help="print the result of --check as JSON, on the last line"
    )


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {count}")
    return count


def _add_serving(commands: Any) -> None:
    serve = _add(commands, "serve", "run the HTTP service", _run_serve)
    serve.add_argument(
        "--embedded",
        action="store_true",
        help="start a Postgres and a channel server where none is configured",
    )
    serve.add_argument("--host", help="address to listen on (default: REHYDRATE_HOST, 127.0.0.1)")
    serve.add_argument(
        "--port",
        type=int,
        help="port to listen on; 0 picks a free one (default: REHYDRATE_PORT, 8000)",
    )
    _add(commands, "migrate", "migrate the database schema to the newest revision", _run_migrate)
    local = _add(
        commands,
        "local-ably",
        "run a local server for development that implements the Ably protocol (alias of localably)",
        _run_local_ably,
    )
    local.add_argument(
        "--port", default="8081", help="port on 127.0.0.1; 0 picks a free one (default: 8081)"
    )
    local.add_argument("--key", help="API key, appId.keyId:secret (default: a generated one)")
    local.add_argument("--data-dir", help="folder for the messages of persisted channels")
    local.add_argument(
        "--retention", help="seconds of history on channels without persistence (default: 120)"
    )
    local.add_argument("--config", help="TOML file with apps, keys, namespaces and webhook rules")


def _add_reading(commands: Any) -> None:
    hydrate = _add(commands, "hydrate", "print a hydrated conversation", _run_hydrate)
    _add_conversation(hydrate)
    hydrate.add_argument("--until", help="serial that the answer must reach (an attach point)")
    hydrate.add_argument(
        "--limit", type=int, default=50, help="number of newest messages (default: 50)"
    )
    hydrate.add_argument("--json", action="store_true", help="print the answer as JSON")
    follow = _add(
        commands, "follow", "print a conversation, then its live events until stopped", _run_follow
    )
    _add_conversation(follow)
    follow.add_argument(
        "--limit",
        type=int,
        default=50,
        help="number of newest messages to print first (default: 50)",
    )
    follow.add_argument("--json", action="store_true", help="print each event as a line of JSON")
    _add_replay(commands)
    erase = _add(commands, "erase", "permanently erase the messages of a conversation", _run_erase)
    _add_conversation(erase)
    verify = _add(
        commands, "verify", "compare the stored messages with channel history", _run_verify
    )
    _add_conversation(verify)
    verify.add_argument(
        "--mend",
        action="store_true",
        help="repair each difference: update the store, or publish a repair",
    )
    _add(
        commands,
        "doctor",
        "check settings, database, schema and Ably; suggest a fix for each problem",
        _run_doctor,
    )
    _add(commands, "config", "print the settings, with secrets hidden", _run_config)


def _add_conversation(command: Any) -> None:
    command.add_argument("conversation", help="conversation id")


def _add_replay(commands: Any) -> None:
    replay = _add(
        commands, "replay", "publish a stored response again; Ctrl-C cancels it", _run_replay
    )
    _add_conversation(replay)
    replay.add_argument("response", help="response id")
    replay.add_argument(
        "--mode",
        choices=MODES,
        default="stream",
        help="stream: republish with the original timing; "
        "repair: overwrite what live readers show (default: stream)",
    )
    replay.add_argument(
        "--speed",
        type=float,
        default=1.0,
        help="multiple of the original pace; 0: as fast as allowed (default: 1)",
    )
    replay.add_argument("--channel", help="channel to publish on (default: the conversation's)")
    replay.add_argument("--from-seq", type=int, default=0, help="first seq to publish (default: 0)")
    replay.add_argument(
        "--max-rate",
        type=float,
        default=0.0,
        help="channel messages per second (default: 25, or the configured publish rate)",
    )
    replay.add_argument("--dry-run", action="store_true", help="print the schedule and exit")
    replay.add_argument(
        "--json", action="store_true", help="print the result as JSON, on the last line"
    )


def _run(main: Coroutine[Any, Any, T]) -> T:
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - optional

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    return asyncio.run(main)


def _run_demo(options: Any) -> int:
    from rehydrate.demo.command import run_demo  # noqa: PLC0415 - only this command needs it

    check = {"joins": options.joins, "as_json": options.json} if options.check else None
    return _run(run_demo(check))


def _run_serve(options: Any) -> int:
    from rehydrate.cli.serve import serve  # noqa: PLC0415 - as above
    from rehydrate.demo.services import embedded  # noqa: PLC0415 - as above
    from rehydrate.settings import load_settings  # noqa: PLC0415 - as above

    given = {"host": options.host, "port": options.port}
    settings = load_settings(**{key: value for key, value in given.items() if value is not None})

    async def run() -> int:
        if not options.embedded:
            return await serve(settings)
        async with embedded(settings) as completed:
            _logger.info("embedded services keep their data in %s", settings.data_dir)
            return await serve(completed, own_channel=settings.ably_api_key is None)

    return _run(run())


def _run_migrate(_: Any) -> int:
    from rehydrate.database import migrate  # noqa: PLC0415 - as above
    from rehydrate.settings import load_settings  # noqa: PLC0415 - as above

    asyncio.run(migrate(load_settings().required_database_url()))
    sys.stdout.write("the schema is at head\n")
    return 0


def _run_local_ably(options: Any) -> int:
    from localably.__main__ import main as local_ably  # noqa: PLC0415 - as above

    given = {
        "--port": options.port,
        "--key": options.key or os.environ.get("REHYDRATE_LOCAL_ABLY_KEY"),
        "--data-dir": options.data_dir,
        "--retention": options.retention,
        "--config": options.config,
    }
    argv = [word for option, value in given.items() if value for word in (option, value)]
    return local_ably(argv, prog="rehydrate local-ably")


def _run_hydrate(options: Any) -> int:
    from rehydrate.history import History  # noqa: PLC0415 - as above

    async def run() -> bytes:
        async with History() as history:
            hydrated = await history.hydrate(
                options.conversation, until=options.until, limit=options.limit
            )
        return hydrated.body

    body = _run(run())
    # outside the event loop, whose signal handlers do not interrupt a write to a full pipe
    sys.stdout.write(body.decode() + "\n" if options.json else _readable(json.loads(body)))
    return 0


def _readable(answer: dict[str, Any]) -> str:
    lines = []
    for message in answer["messages"]:
        state = "" if message["status"] == "completed" else f"  [{message['status']}]"
        gaps = f"  missing {message['gaps']}" if message["gaps"] else ""
        lines.append(f"{message['role']} {message['id']}{state}{gaps}\n{message['text']}\n")
    if not answer["complete"]:
        lines += [f"not complete: {reason['detail']}" for reason in answer["reasons"]]
    return "\n".join(lines) + "\n"


def _run_follow(options: Any) -> int:
    from rehydrate.cli.terminal import follow  # noqa: PLC0415 - as above

    return _run(follow(options.conversation, limit=options.limit, as_json=options.json))


def _run_replay(options: Any) -> int:
    from rehydrate.cli.progress import replay  # noqa: PLC0415 - as above

    terms = ReplayTerms(
        options.mode, options.speed, options.channel, options.from_seq, options.max_rate
    )
    output = {"dry_run": options.dry_run, "as_json": options.json, "quiet": options.quiet}
    return _run(replay(options.conversation, options.response, terms, **output))


def _run_erase(options: Any) -> int:
    from rehydrate.history import History  # noqa: PLC0415 - as above

    async def run() -> int:
        async with History() as history:
            await history.erase(options.conversation)
        sys.stdout.write("erased\n")
        return 0

    return _run(run())


def _run_verify(options: Any) -> int:
    from rehydrate.history import History  # noqa: PLC0415 - as above

    async def run() -> int:
        async with History() as history:
            found = await history.verify(options.conversation, mend=options.mend)
        for each in found.findings:
            repaired = "repaired: " if each.mended else ""
            sys.stdout.write(f"{repaired}{each.message_id}: {each.fault} is wrong: {each.detail}\n")
        counted = f"compared {found.compared} of {found.messages} messages on the channel"
        sys.stdout.write(f"{counted}; {len(found.findings)} differ\n")
        return int(any(not each.mended for each in found.findings))

    return _run(run())


def _run_doctor(_: Any) -> int:
    from rehydrate.cli.doctor import examine  # noqa: PLC0415 - as above

    return _run(examine())


def _run_config(_: Any) -> int:
    from rehydrate.settings import (  # noqa: PLC0415 - as above
        described,
        load_settings,
        unknown_variables,
    )

    shown = described(load_settings())
    width = max(map(len, shown))
    for name, value in shown.items():
        sys.stdout.write(f"{name:{width}}  {value}".rstrip() + "\n")
    for name in unknown_variables():
        sys.stdout.write(f"unknown: {name}\n")
    return 0


def _run_agent(options: Any) -> int:
    from rehydrate.demo.agent import run_agent  # noqa: PLC0415 - as above

    return _run(run_agent(options.conversation, options.seconds))


def _run_example(options: Any) -> int:
    from rehydrate.demo.examples import run_example  # noqa: PLC0415 - as above

    return run_example(options.name, options.argv)


if __name__ == "__main__":
    sys.exit(main())
